"""How far a run has come, from the reports of its workers."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils import timezone

from webapp.runs.models import Run, RunStage, Shard, Status

# Below this share an estimate of the time left says more about the start than about the work.
_SMALLEST_SHARE_TO_ESTIMATE = 0.02


@dataclass(frozen=True)
class StageProgress:
    """How far one stage has come. `share` is in [0, 1]; `done` of `total` `unit` is what its running shards count."""

    key: str
    title: str
    status: Status
    reused: bool
    shards_done: int
    shards: int
    done: int
    total: int
    unit: str
    share: float
    tokens_per_second: float | None
    seconds: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come. `share` counts every stage the same, so it is a picture, not a forecast."""

    stages: tuple[StageProgress, ...]
    stages_done: int
    share: float


def run_progress(run: Run) -> RunProgress:
    """Return how far a run has come, in two queries."""
    items = run.run_stages.select_related("stage").prefetch_related("stage__shards").order_by("order")
    stages = tuple(_stage_progress(item) for item in items)
    share = sum(stage.share for stage in stages) / len(stages) if stages else 0.0
    return RunProgress(stages, sum(stage.status == Status.DONE for stage in stages), share)


def _stage_progress(item: RunStage) -> StageProgress:
    stage, shards = item.stage, list(item.stage.shards.all())
    share = sum(_share(shard) for shard in shards) / len(shards)
    running = [shard for shard in shards if shard.status == Status.RUNNING]
    ended = stage.finished or timezone.now()
    seconds = (ended - stage.started).total_seconds() if stage.started else None
    return StageProgress(
        key=item.key,
        title=stage.title,
        status=Status(stage.status),
        reused=item.reused,
        shards_done=sum(shard.status == Status.DONE for shard in shards),
        shards=len(shards),
        done=sum(shard.progress_done for shard in running),
        total=sum(shard.progress_total for shard in running),
        unit=next((shard.progress_unit for shard in running if shard.progress_unit), ""),
        share=share,
        tokens_per_second=_speed(running),
        seconds=seconds,
        seconds_left=_seconds_left(seconds, share) if stage.status == Status.RUNNING else None,
    )


def _share(shard: Shard) -> float:
    if shard.status == Status.DONE:
        return 1.0
    return min(1.0, shard.progress_done / shard.progress_total) if shard.progress_total else 0.0


def _speed(shards: Sequence[Shard]) -> float | None:
    speeds = [shard.tokens_per_second for shard in shards if shard.tokens_per_second is not None]
    return sum(speeds) if speeds else None


def _seconds_left(seconds: float | None, share: float) -> float | None:
    if seconds is None or share < _SMALLEST_SHARE_TO_ESTIMATE:
        return None
    return seconds * (1 - share) / share
