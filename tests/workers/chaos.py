"""Run many small stages on a cluster that is hurt at seeded moments; print what came of it as JSON.

python -m tests.workers.chaos FOLDER SEED FAULT...
"""

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from rso_core.plan import Plan, PlannedStage, fingerprint_of
from rso_core.protocol import StageSpec
from tests.workers.cluster import FAULTS, Cluster, Patience, cluster_in, is_over, outcome, position, set_up_django

# Stages and how many shards each has; a stage reads the one before it in the same row, if any.
SHAPE = [
    [("sft", 1), ("sampling", 12), ("scoring", 12)],
    [("reward_training", 1)],
    [("generation", 6), ("win_rate", 6)],
]
SCRIPT = {"script": [{"progress": 1}, {"sleep": 0.25}, {"progress": 9}, {"commit": True}]}


def plan() -> Plan:
    stages = []
    for row in SHAPE:
        previous: dict[str, str] = {}
        fingerprints: dict[str, str] = {}
        for kind, shards in row:
            fingerprint = fingerprint_of(kind, SCRIPT, fingerprints)
            stages.append(PlannedStage(kind, kind, SCRIPT, previous, {}, fingerprint, shards))
            previous, fingerprints = {"from": kind}, {"from": fingerprint}
    return Plan(tuple(stages), {})


def undisturbed(folder: Path) -> dict[str, str]:
    """Return the digests of all stages when the scripted work is done one after the other, without a cluster."""
    from rso_core.artifacts import ArtifactStore
    from tests.workers.scripted_runner import commit

    os.environ |= {"RSO_ARTIFACT_URL": str(folder), "RSO_ARTIFACT_CACHE": str(folder)}
    digests: dict[str, str] = {}
    for stage in plan().stages:
        inputs = {name: digests[key] for name, key in stage.needs.items()}
        parts = [
            commit(
                StageSpec(
                    kind=stage.kind,
                    fingerprint=stage.fingerprint,
                    config=stage.config,
                    inputs=inputs,
                    shard_index=index,
                    shard_count=stage.shards,
                )
            )
            for index in range(stage.shards)
        ]
        whole = ArtifactStore(str(folder)).commit_parts
        digests[stage.key] = parts[0] if len(parts) == 1 else whole(parts, kind=stage.kind)
    return digests


def shards_done() -> int:
    from webapp.runs.models import Shard

    return Shard.objects.filter(status="done").count()


def hurt_until_over(cluster: Cluster, draw: random.Random, faults: list[str]) -> list[str]:
    """Do each fault once a drawn number of shards is done, then let the cluster come to rest."""
    moments = sorted(draw.sample(range(sum(shards for row in SHAPE for _, shards in row) * 2 // 3), len(faults)))
    happened: list[str] = []
    pending = list(faults)
    draw.shuffle(pending)
    patience = Patience(cluster.folder)
    while not is_over():
        cluster.start_missing()
        patience.look((position(), len(happened)))
        time.sleep(draw.uniform(0.05, 0.3))
        if pending and shards_done() >= moments[-len(pending)]:
            if did := FAULTS[pending[0]](cluster, draw):
                happened.append(did)
                pending.pop(0)
            else:
                pending.append(pending.pop(0))  # nothing to hurt: another one first
    return happened


def main(folder: Path, seed: int, faults: list[str]) -> dict[str, Any]:
    os.environ["RSO_RUNNER_COMMAND"] = f"{sys.executable} -m tests.workers.scripted_runner"
    expected = undisturbed(folder / "undisturbed")
    with cluster_in(folder) as cluster:
        set_up_django()
        from tests.webapp.graphs import CONFIG, researcher
        from webapp.runs import services

        services.create_run(plan=plan(), config=CONFIG, user=researcher())
        lost = cluster.lose_messages()  # before any worker could hear of the run
        began = time.monotonic()
        happened = hurt_until_over(cluster, random.Random(seed), faults)  # noqa: S311
        seconds = time.monotonic() - began
        return {"happened": happened, "lost": lost, "seconds": seconds, "expected": expected, **outcome()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])) + "\n")
