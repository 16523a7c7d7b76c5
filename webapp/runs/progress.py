"""How far a run has come, from the reports of its workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db.models import Count
from django.utils import timezone

from webapp.runs.estimates import Speed, expected_seconds
from webapp.runs.models import Run, RunStage, Shard, Status

# Below this share an estimate of the time left says more about the start than about the work.
_SMALLEST_SHARE_TO_ESTIMATE = 0.02

# Two stages of a run may be of one kind; these are told apart.
_TITLES = {
    "auto_sxs_sft": "SFT AutoSxS",
    "auto_sxs_policy": "policy AutoSxS",
    "gold_reward_training": "gold reward model",
    "generation_sft": "SFT responses",
    "win_rate_sft": "SFT win rate",
    "generation_policy": "policy responses",
    "win_rate_policy": "policy win rate",
}


def stage_title(key: str, title: str) -> str:
    """Return the name of a stage in its run, by its key, or else that of its kind."""
    _, _, number = key.partition("_round_")
    return f"{title}, round {number}" if number else _TITLES.get(key, title)


@dataclass(frozen=True)
class StageProgress:
    """How far one stage has come. `share` is in [0, 1]; `done` of `total` `unit` is what its running shards count, or all.

    `tokens_per_second` is that of the running shards together, or of the whole stage once it is done.
    """

    key: str
    kind: str
    stage_id: int
    title: str
    status: Status
    work: str
    reused: bool
    shared_with: int  # other runs that need the stage
    shards_done: int
    shards: int
    done: int
    total: int
    unit: str
    share: float
    units_per_second: float | None
    tokens_per_second: float | None
    seconds: float | None
    seconds_left: float | None  # of the stage: measured while it runs, expected before


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come. `share` counts every stage the same, so it is a picture, not a forecast."""

    stages: tuple[StageProgress, ...]
    stages_done: int
    share: float

    @property
    def current(self) -> StageProgress | None:
        """Return the running stage, or the first that is not done."""
        running = (stage for stage in self.stages if stage.status == Status.RUNNING)
        return next(running, None) or next((stage for stage in self.stages if stage.status != Status.DONE), None)

    @property
    def after(self) -> StageProgress | None:
        """Return the stage that comes after the current one."""
        waiting = (stage for stage in self.stages if stage.status in {Status.WAITING, Status.READY})
        return next((stage for stage in waiting if stage is not self.current), None)

    @property
    def seconds_left(self) -> float | None:
        """Return the time left in all stages together, or None when that of one is not known."""
        left = [stage.seconds_left for stage in self.stages if stage.status != Status.DONE]
        known = [seconds for seconds in left if seconds is not None]
        return sum(known) if left and len(known) == len(left) else None


def run_progress(run: Run, speeds: Mapping[str, Speed] | None = None) -> RunProgress:
    """Return how far a run has come, in two queries. `speeds` say how long the stages to come will take."""
    return progress_of([run], speeds)[run.pk]


def progress_of(runs: Sequence[Run], speeds: Mapping[str, Speed] | None = None) -> dict[int, RunProgress]:
    """Return how far each of several runs has come, by key, in two queries."""
    items = RunStage.objects.filter(run__in=runs).select_related("stage").prefetch_related("stage__shards")
    found: dict[int, list[StageProgress]] = {run.pk: [] for run in runs}
    for item in items.order_by("order").annotate(users=Count("stage__run_stages")):
        found[item.run_id].append(_stage_progress(item, speeds or {}))
    return {run: _run_progress(tuple(stages)) for run, stages in found.items()}


def _run_progress(stages: tuple[StageProgress, ...]) -> RunProgress:
    share = sum(stage.share for stage in stages) / len(stages) if stages else 0.0
    return RunProgress(stages, sum(stage.status == Status.DONE for stage in stages), share)


def _stage_progress(item: RunStage, speeds: Mapping[str, Speed]) -> StageProgress:
    stage, shards = item.stage, list(item.stage.shards.all())
    share = sum(_share(shard) for shard in shards) / len(shards) if shards else 0.0
    running = [shard for shard in shards if shard.status == Status.RUNNING]
    counted = running or shards
    ended = stage.finished or timezone.now()
    seconds = (ended - stage.started).total_seconds() if stage.started else None
    left = _seconds_left(seconds, share, shards) if stage.status == Status.RUNNING else None
    if left is None:
        expected = expected_seconds(stage.kind, stage.work_units, speeds)
        left = None if expected is None else expected * (1 - share)
    return StageProgress(
        key=item.key,
        kind=stage.kind,
        stage_id=stage.pk,
        title=stage_title(item.key, stage.title),
        status=Status(stage.status),
        work=stage.work,
        reused=item.reused,
        shared_with=getattr(item, "users", 1) - 1,
        shards_done=sum(shard.status == Status.DONE for shard in shards),
        shards=len(shards),
        done=sum(shard.progress_done for shard in counted),
        total=sum(shard.progress_total for shard in counted),
        unit=next((shard.progress_unit for shard in counted if shard.progress_unit), ""),
        share=share,
        units_per_second=_units_per_second(running),
        tokens_per_second=_speed(running) if running else _average_speed(shards, seconds),
        seconds=seconds,
        seconds_left=left,
    )


def _share(shard: Shard) -> float:
    if shard.status == Status.DONE:
        return 1.0
    return min(1.0, shard.progress_done / shard.progress_total) if shard.progress_total else 0.0


def _speed(shards: Sequence[Shard]) -> float | None:
    speeds = [shard.tokens_per_second for shard in shards if shard.tokens_per_second is not None]
    return sum(speeds) if speeds else None


def _average_speed(shards: Sequence[Shard], seconds: float | None) -> float | None:
    """Return the tokens of finished shards for each second of their stage."""
    tokens = sum(
        shard.tokens_per_second * (shard.finished - shard.started).total_seconds()
        for shard in shards
        if shard.tokens_per_second is not None and shard.started and shard.finished
    )
    return tokens / seconds if tokens and seconds else None


def _units_per_second(shards: Sequence[Shard]) -> float | None:
    """Return what the running shards count together in a second, since each was started; not what they resumed with."""
    rates = [
        (shard.progress_done - shard.progress_resumed) / seconds
        for shard in shards
        if shard.started and shard.progress_at and (seconds := (shard.progress_at - shard.started).total_seconds()) > 1
    ]
    return sum(rates) if any(rates) else None


def _seconds_left(seconds: float | None, share: float, shards: Sequence[Shard]) -> float | None:
    """Return the time left by what this attempt did since it was started; a stage of many shards counts as one attempt."""
    before = 0.0
    if len(shards) == 1 and shards[0].status == Status.RUNNING and shards[0].started and shards[0].progress_total:
        before = shards[0].progress_resumed / shards[0].progress_total
        seconds = (timezone.now() - shards[0].started).total_seconds()
    if seconds is None or share - before < _SMALLEST_SHARE_TO_ESTIMATE:
        return None
    return seconds * (1 - share) / (share - before)
