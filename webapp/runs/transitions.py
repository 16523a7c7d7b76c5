"""How stages and runs move from status to status; people's and workers' actions are made of these.

Two rules keep concurrent transactions from waiting for each other in a circle: stages are locked in ascending
id (a stage's inputs are always older than the stage), then shards, then runs, also ascending; and
every decision over several rows reads them after the lock is held. Call these inside a transaction.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from webapp.runs import queue
from webapp.runs.models import (
    LIVE,
    MOVES,
    UNSUCCESSFUL,
    Attempt,
    Run,
    RunStage,
    Shard,
    Stage,
    StageInput,
    Status,
    Worker,
)

WORKER_SEEN_WITHIN = timedelta(seconds=60)


def lock_stages(stages: QuerySet[Stage], *, skip_locked: bool = False) -> list[Stage]:
    """Lock stages in ascending id and return them as they are once locked."""
    return list(stages.order_by("pk").select_for_update(no_key=True, skip_locked=skip_locked))


def move(rows: QuerySet[Any], to: Status, **values: Any) -> int:
    """Move those rows that may legally become `to`; return how many did."""
    legal = [status for status, targets in MOVES.items() if to in targets]
    return rows.filter(status__in=legal).update(status=to, **values)


def make_ready(stages: Iterable[Stage]) -> None:
    """Make those locked stages ready that wait for nothing any more, and ring for them."""
    for stage in stages:
        if stage.inputs.exclude(upstream__status=Status.DONE).exists():
            continue
        if move(Stage.objects.filter(pk=stage.pk, status=Status.WAITING), Status.READY):
            shards = move(stage.shards.filter(status=Status.WAITING), Status.READY)
            ring_for(stage, shards)


def ring_for(stage: Stage, shards: int) -> None:
    """Ring once for each of `shards`, but not more often than there are workers to hear it."""
    queue.ring(stage=stage.pk, queue=stage.queue, times=max(1, min(shards, living_slots(stage.queue))))


def living_slots(queue_name: str) -> int:
    """Return how many pieces of work the workers seen lately on a queue can do at once."""
    living = Worker.objects.filter(queue__contains=queue_name, seen__gte=Now() - WORKER_SEEN_WITHIN)
    return sum(living.values_list("slots", flat=True))


def revive(stages: Iterable[Stage]) -> None:
    """Give locked stages that failed or were stopped new attempts."""
    again: dict[str, Any] = {"failures": 0, "furthest": 0, "not_before": None}
    for stage in stages:
        revived = Stage.objects.filter(pk=stage.pk, status__in=UNSUCCESSFUL)
        if move(revived, Status.WAITING, message="", traceback="", finished=None):
            move(stage.shards.filter(status__in=UNSUCCESSFUL), Status.WAITING, **again)


def end_stage(stage: Stage, status: Status, *, message: str = "", traceback: str = "") -> None:
    """End a locked stage without a result. Shards that run are stopped: their workers notice at the next beat."""
    move(Stage.objects.filter(pk=stage.pk), status, message=message, traceback=traceback, finished=Now())
    move(stage.shards.all(), Status.STOPPED, lease_expires=None)
    Attempt.objects.filter(shard__stage=stage, ended=None).update(ended=Now(), outcome="stopped")


def unwanted_stages() -> QuerySet[Stage]:
    """Return unfinished stages that belong to runs of which none is live, and that no import waits for."""
    uses = RunStage.objects.filter(stage=OuterRef("pk"))
    imported = Q(datasets__digest="") & Q(datasets__isnull=False) | Q(models__digest="") & Q(models__isnull=False)
    return Stage.objects.filter(Exists(uses), ~Exists(uses.filter(run__status__in=LIVE)), status__in=LIVE).exclude(
        pk__in=Stage.objects.filter(imported).values("pk")
    )


def stop_unwanted(within: QuerySet[Stage] | None = None) -> None:
    """Stop every stage (or those of `within`) that no live run wants any more."""
    candidates = unwanted_stages() if within is None else unwanted_stages().filter(pk__in=within.values("pk"))
    for stage in lock_stages(Stage.objects.filter(pk__in=list(candidates.values_list("pk", flat=True)))):
        # Looked at again under the lock: a launch may have come in between.
        if unwanted_stages().filter(pk=stage.pk).exists():
            end_stage(stage, Status.STOPPED)


def open_downstream(stage: Stage) -> None:
    """Make the stages ready that waited for this one last."""
    waiting = Stage.objects.filter(
        pk__in=StageInput.objects.filter(upstream=stage).values("stage"), status=Status.WAITING
    )
    make_ready(lock_stages(waiting))


def refresh_runs(runs: QuerySet[Run]) -> None:
    """Write the status that follows from its stages to each live run."""
    for run in runs.filter(status__in=LIVE).order_by("pk").select_for_update(no_key=True):
        status, message = _status_of(run)
        if (status, message) != (run.status, run.message):
            finished = Now() if status.is_final else None
            Run.objects.filter(pk=run.pk).update(status=status, message=message, finished=finished)


def runs_of(stage: Stage) -> QuerySet[Run]:
    """Return the runs that need a stage."""
    return Run.objects.filter(pk__in=RunStage.objects.filter(stage=stage).values("run"))


def _status_of(run: Run) -> tuple[Status, str]:
    stages = [item.stage for item in run.run_stages.select_related("stage").order_by("order")]
    for stage in stages:
        if stage.status in {Status.FAILED, Status.OUT_OF_MEMORY}:
            return Status(stage.status), f"{stage.title}: {stage.message}"
    found = {stage.status for stage in stages}
    if found == {Status.DONE}:
        return Status.DONE, ""
    order = (Status.RUNNING, Status.READY)
    return next((status for status in order if status in found), Status.WAITING), ""


def ready_shards() -> QuerySet[Shard]:
    """Return the shards that are due: ready, their delay over, their stage not ended."""
    return Shard.objects.filter(
        Q(not_before=None) | Q(not_before__lte=Now()),
        status=Status.READY,
        stage__status__in=[Status.READY, Status.RUNNING],
    )
