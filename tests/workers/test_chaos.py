"""A run on a cluster that is hurt in every way we know ends as if nothing had happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import reachable_folder
from tests.workers.cluster import FAULTS, run_script

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))]

pytestmark = pytest.mark.timeout(1800)  # the last resort: the script ends when nothing moves any more


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_killed_lost_doubled_or_frozen_every_shard_is_done_once_and_alike(folder: Path, seed: int) -> None:
    ended = run_script("tests.workers.chaos", folder, seed, *FAULTS)
    assert ended["run"] == ["done", ""]
    assert ended["lost"] > 0
    assert sorted(ended["happened"]) == sorted(FAULTS)
    assert ended["digests"] == ended["expected"]
    assert ended["shards_done"] == ended["shards"]
    assert ended["open_attempts"] == 0
