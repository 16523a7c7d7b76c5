"""Real training and sampling through Celery, killed in the middle: the same artifacts as in one quiet process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import reachable_folder
from tests.workers.cluster import run_script

CASES = [(1, "policy_fitting"), *(pytest.param(seed, "report", marks=pytest.mark.slow) for seed in range(2, 5))]

pytestmark = pytest.mark.timeout(1800)  # the last resort: the script ends when nothing moves any more


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder


@pytest.mark.parametrize(("seed", "last"), CASES)
def test_a_run_killed_stopped_and_resumed_in_training_and_sampling_makes_the_same_artifacts(
    folder: Path, seed: int, last: str
) -> None:
    ended = run_script("tests.workers.real_run", folder, seed, last)
    assert ended["run"] == ["done", ""]
    assert set(ended["happened"]) == {"sft", "reward_training", "sampling", "policy_fitting", "scoring"}
    assert ended["made"] == ended["expected"]
    assert ended["shards_done"] == ended["shards"]
    assert ended["open_attempts"] == 0
    assert ended["left_over"] == []
    # Each was noticed for what it was, and no training began anew.
    assert {("sft", "killed"), ("reward_training", "lease_lost"), ("policy_fitting", "stopped")} <= {
        (kind, how) for kind, how in ended["unsuccessful"]
    }
    assert ended["resumed"] == ["policy_fitting", "reward_training", "sft"]
    assert ended["at_rest"] == {"run": "stopped", "stage": "stopped", "runners_are_gone": True}
