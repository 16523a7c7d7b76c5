"""No acknowledged answer is lost, and none is there twice, whatever is killed while raters submit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import reachable_folder
from tests.workers.cluster import run_script

FAULTS = ("web", "postgres", "session", "both")
CASES = [
    pytest.param(1, 1, id="1"),
    *(pytest.param(seed, 4, id=str(seed), marks=pytest.mark.slow) for seed in range(2, 8)),
]

pytestmark = pytest.mark.timeout(1800)  # the last resort: the script ends when nothing moves any more


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder


@pytest.mark.parametrize(("seed", "rounds"), CASES)
def test_every_acknowledged_answer_is_there_once_though_web_and_database_were_killed(
    folder: Path, seed: int, rounds: int
) -> None:
    ended = run_script("tests.workers.rating_chaos", folder, seed, *FAULTS * rounds)
    assert ended["wrong"] == []
    assert sorted(ended["happened"]) == sorted(FAULTS * rounds)
    assert ended["settings"] == {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    assert ended["troubles"], "nobody noticed the kills"
    assert ended["tried_again"] > 0
    assert ended["acknowledged"] >= 10 * (len(FAULTS) * rounds + 1)
    assert ended["lost"] == []
    assert ended["unasked"] == []
    assert ended["twice"] == []
    assert ended["different"] == []
    # Nobody stopped between sending and being told, so nothing else is there either.
    assert ended["stored"] == ended["acknowledged"]
    assert ended["not_counted"] == 0
    assert ended["broken"] == []
