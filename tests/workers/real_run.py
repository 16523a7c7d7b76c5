"""Train and sample for real on a cluster that is hurt in the middle of it; print what came of it as JSON.

python -m tests.workers.real_run FOLDER SEED
"""

import contextlib
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from rso_core.config import RunConfig
from rso_core.plan import Plan
from tests.rso_core.chain import Chain, toy_config
from tests.workers.cluster import Cluster, Patience, cluster_in, is_over, outcome, position, set_up_django

if TYPE_CHECKING:
    from collections.abc import Callable

TRAININGS = ("sft", "reward_training", "policy_fitting")
STEPS = 120
# So many steps that a kill finds some done and some to do, and so small ones that samples still differ after them.
TRAINING = {"max_steps": STEPS, "epochs": 120, "checkpoint_every": 3, "learning_rate": 0.001}


def recipe() -> RunConfig:
    sampling = {"prompts_per_shard": 2, "num_candidates": 24}
    return toy_config(sft=TRAINING, reward=TRAINING, fitting=TRAINING, sampling=sampling)


def ending_with(last: str, plan: Plan) -> Plan:
    """Return the stages of a plan up to one of them; each costs some seconds in which a runner starts."""
    keys = [stage.key for stage in plan.stages]
    return Plan(plan.stages[: keys.index(last) + 1], plan.counts)


def undisturbed(chain: Chain, plan: Plan) -> dict[str, str]:
    """Return the digest of every stage when all are executed one after the other in this process."""
    for stage in plan.stages:
        chain.run_stage(plan, stage.key)
    return {stage.key: chain.digest(plan, stage.key) for stage in plan.stages}


class Disturbance:
    """Hurts a run once in each of five stages, each time when as much of the stage is done as a seed says."""

    def __init__(self, cluster: Cluster, plan: Plan, seed: int) -> None:
        self._cluster, self._plan = cluster, plan
        draw = random.Random(seed)  # noqa: S311
        self._pending: dict[str, tuple[int, Callable[[str], None]]] = {
            "sft": (draw.randint(5, STEPS // 3), self._kill_runner),
            "reward_training": (draw.randint(5, STEPS // 3), self._kill_worker),
            "sampling": (draw.randint(1, 3), self._kill_postgres),
            "policy_fitting": (draw.randint(5, STEPS // 3), self._stop_and_resume),
            "scoring": (draw.randint(1, 3), self._kill_everything),
        }
        self.happened: list[str] = []
        self.at_rest: dict[str, Any] = {}

    def go_on(self) -> None:
        """Do what is due."""
        for key, (amount, hurt) in list(self._pending.items()):
            if self._done(key) >= amount and self._is_under_way(key):
                del self._pending[key]
                hurt(key)
                self.happened.append(key)

    def _is_under_way(self, key: str) -> bool:
        shards = self._shards(key)
        return bool(shards.filter(status="running") if key in TRAININGS else shards.exclude(status="done"))

    def _done(self, key: str) -> int:
        """Return the step of a training's newest checkpoint, or how many parts of another stage are done."""
        folder = self._cluster.folder / "artifacts" / "checkpoints" / self._plan.stage(key).fingerprint
        steps = [int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*.pt")]
        return max(steps, default=0) if key in TRAININGS else self._shards(key).filter(status="done").count()

    def _shards(self, key: str) -> Any:
        from webapp.runs.models import Shard

        return Shard.objects.filter(stage__fingerprint=self._plan.stage(key).fingerprint)

    def _worker_of(self, key: str) -> str:
        shard = self._shards(key).get(status="running")
        return str(shard.worker.split("@")[0])

    # What is done to a stage

    def _kill_runner(self, key: str) -> None:
        for runner in self._cluster.runners(self._worker_of(key)):
            with contextlib.suppress(psutil.NoSuchProcess):
                runner.kill()

    def _kill_worker(self, key: str) -> None:
        self._cluster.kill(self._worker_of(key))

    def _kill_postgres(self, _key: str) -> None:
        self._cluster.kill_postgres()

    def _kill_everything(self, _key: str) -> None:
        self._cluster.kill_everything()

    def _stop_and_resume(self, key: str) -> None:
        from webapp.runs import services
        from webapp.runs.models import Run

        run = Run.objects.get()
        services.stop_run(run=run)
        gone = self._until_runners_are_gone()
        self.at_rest = {"run": run.status, "stage": self._status(key), "runners_are_gone": gone}
        services.resume_run(run=run)

    def _status(self, key: str) -> str:
        return str(self._shards(key).get().stage.status)

    def _until_runners_are_gone(self) -> bool:
        deadline = time.monotonic() + 60
        while self._cluster.runners() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self._cluster.runners()


def follow(cluster: Cluster, disturbance: Disturbance) -> None:
    patience = Patience(cluster.folder)
    while not is_over():
        cluster.start_missing()
        disturbance.go_on()
        patience.look(position())
        time.sleep(0.05)


def resumed_stages() -> list[str]:
    """Return the kinds of stages whose training went on from a checkpoint."""
    from webapp.runs.models import LogLine

    found = LogLine.objects.filter(message__startswith="resumed after step")
    return sorted(set(found.values_list("stage__kind", flat=True)))


def main(folder: Path, seed: int, last: str) -> dict[str, Any]:
    with cluster_in(folder) as cluster:
        cluster.start_missing()
        set_up_django()
        from tests.webapp.graphs import researcher
        from webapp.runs import services

        chain = Chain(folder)
        shutil.copytree(chain.store.root / "objects", folder / "artifacts" / "objects")
        plan = ending_with(last, chain.plan(recipe()))
        expected = undisturbed(chain, plan)
        run = services.create_run(plan=plan, config=recipe(), user=researcher())
        disturbance = Disturbance(cluster, plan, seed)
        began = time.monotonic()
        follow(cluster, disturbance)
        return {
            "seconds": time.monotonic() - began,
            "happened": disturbance.happened,
            "at_rest": disturbance.at_rest,
            "resumed": resumed_stages(),
            "left_over": [path.name for path in (folder / "artifacts" / "staging").iterdir()],
            "expected": expected,
            "made": dict(run.run_stages.values_list("key", "stage__digest")),
            **outcome(),
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])) + "\n")
