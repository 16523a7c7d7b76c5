"""Small graphs of stages, runs over them, and workers that do nothing but report."""

from collections.abc import Mapping
from typing import Any

from rso_core.config import DataConfig, ModelConfig, RunConfig
from rso_core.plan import Plan, PlannedStage, fingerprint_of
from webapp.accounts.models import Role, User
from webapp.runs import jobs, services
from webapp.runs.jobs import Claim
from webapp.runs.models import Run, Shard, Stage

CONFIG = RunConfig(
    name="graph",
    task="summarization",
    data=DataConfig(preferences="preferences", sft="sft"),
    model=ModelConfig(base="base"),
)

Graph = Mapping[str, tuple[tuple[str, ...], int]]

# Each stage: the keys it needs, and how many shards it has.
DIAMOND: Graph = {
    "sft": ((), 1),
    "reward_training": ((), 1),
    "sampling": (("sft",), 3),
    "scoring": (("sampling", "reward_training"), 2),
}


def researcher(name: str = "researcher") -> User:
    return User.objects.create_user(name, role=Role.RESEARCHER)


def plan_of(graph: Graph, *, seed: int = 0, seeds: Mapping[str, int] | None = None) -> Plan:
    """Return the plan of a graph. Stages with the same seed and the same inputs are the same work."""
    stages = {}
    for key, (needs, shards) in graph.items():
        config = {"seed": (seeds or {}).get(key, seed)}
        inputs = {f"from_{need}": stages[need].fingerprint for need in needs}
        fingerprint = fingerprint_of(key, config, inputs)
        stages[key] = PlannedStage(key, key, config, {f"from_{need}": need for need in needs}, {}, fingerprint, shards)
    return Plan(tuple(stages.values()), {})


def run_of(graph: Graph, user: User, **options: Any) -> Run:
    return services.create_run(plan=plan_of(graph, **options), config=CONFIG, user=user)


def stage_of(run: Run, key: str) -> Stage:
    return Stage.objects.get(run_stages__run=run, run_stages__key=key)


def claim(run: Run, key: str, worker: str = "worker") -> Claim | None:
    return jobs.claim(stage_id=stage_of(run, key).pk, worker=worker)


def digest_of(shard_id: int) -> str:
    return f"{shard_id:064x}"


def finish(claimed: Claim, **summary: Any) -> None:
    jobs.finish_shard(claimed, digest=digest_of(claimed.shard_id), summary=summary)


def finish_stage(run: Run, key: str) -> None:
    while (claimed := claim(run, key)) is not None:
        finish(claimed)


def finish_everything(run: Run) -> None:
    for item in run.run_stages.select_related("stage").order_by("order"):
        finish_stage(run, item.key)


def statuses(run: Run) -> dict[str, str]:
    return {item.key: str(item.stage.status) for item in run.run_stages.select_related("stage")}


def run_status(run: Run) -> str:
    return str(Run.objects.get(pk=run.pk).status)


def shard_of(claimed: Claim) -> Shard:
    return Shard.objects.get(pk=claimed.shard_id)


def expire_lease(claimed: Claim) -> None:
    """Pretend that nothing was heard of the worker for longer than its lease."""
    Shard.objects.filter(pk=claimed.shard_id).update(lease_expires="2000-01-01T00:00:00Z")


def forget_delays() -> None:
    """Pretend that the pause before every retry is over."""
    Shard.objects.update(not_before=None)
