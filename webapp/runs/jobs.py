"""What workers do with shards: claim, report, finish, fail. Every write is fenced by the attempt number.

A worker holds a shard under a lease that its reports extend. A write is accepted only while the shard is
running under the attempt that the worker claimed; otherwise `LeaseLost` says that somebody stopped the work or
gave it to another worker, and the writer must end its runner and leave. All times are the database's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from rso_core.errors import RsoError
from rso_core.protocol import Log, Metrics, Progress, StageSpec, add_summaries
from webapp.runs.artifacts import store
from webapp.runs.completion import record_completion
from webapp.runs.failures import Failed, end_attempt, end_in_failure, lease, settle_stage
from webapp.runs.models import Attempt, LogLine, MetricPoint, Shard, Stage, Status, Worker
from webapp.runs.text import finite, storable
from webapp.runs.transitions import (
    lock_stages,
    move,
    open_downstream,
    ready_shards,
    refresh_runs,
    ring_for,
    runs_of,
    stop_unwanted,
)

_LONGEST_LOG_LINE = 10_000  # the last lines go into every poll of a run's page

_CLAIM = """
UPDATE runs_shard
SET status = 'running', attempt = attempt + 1, worker = %(worker)s, started = statement_timestamp(),
    lease_expires = statement_timestamp() + %(lease)s * interval '1 second', not_before = NULL,
    progress_resumed = progress_done
WHERE id = (
    SELECT shard.id FROM runs_shard AS shard JOIN runs_stage AS stage ON stage.id = shard.stage_id
    WHERE stage.id = %(stage)s AND stage.status IN ('ready', 'running') AND shard.status = 'ready'
      AND (shard.not_before IS NULL OR shard.not_before <= statement_timestamp())
    ORDER BY shard.index
    LIMIT 1
    FOR UPDATE OF shard SKIP LOCKED
)
RETURNING id, attempt
"""


class LeaseLost(RsoError):  # noqa: N818 - what happened, not a mistake
    """The shard is no longer this worker's: it was stopped, or its lease expired and another has it."""


@dataclass(frozen=True)
class Claim:
    """A shard under one attempt: the fence of every later write, and what the runner is to do."""

    shard_id: int
    stage_id: int
    attempt: int
    worker: str
    spec: StageSpec


@dataclass
class Report:
    """What a runner said since the last report. An empty one is a heartbeat."""

    progress: Progress | None = None
    metrics: list[Metrics] = field(default_factory=list)
    log: list[Log] = field(default_factory=list)


def claim(*, stage_id: int, worker: str) -> Claim | None:
    """Take one due shard of a stage, or return None when there is none. Two workers never get the same one."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_CLAIM, {"worker": worker, "lease": lease().total_seconds(), "stage": stage_id})
            row = cursor.fetchone()
        if row is None:
            return None
        shard_id, attempt = row
        Attempt.objects.create(shard_id=shard_id, number=attempt, worker=worker)
    _note_running(stage_id)
    shard = Shard.objects.select_related("stage").get(pk=shard_id)
    return Claim(shard_id, stage_id, attempt, worker, _spec(shard, attempt))


def due_stage(queues: Sequence[str]) -> int | None:
    """Return the oldest stage of these queues that has a due shard."""
    due = ready_shards().filter(stage__queue__in=queues).order_by("stage_id")
    return due.values_list("stage_id", flat=True).first()


def _note_running(stage_id: int) -> None:
    """Show a claimed stage and its runs as running. A transaction of its own, because stages are locked before shards."""
    with transaction.atomic():
        for stage in lock_stages(Stage.objects.filter(pk=stage_id, status=Status.READY)):
            if stage.shards.filter(status=Status.RUNNING).exists():
                Stage.objects.filter(pk=stage.pk, started=None).update(started=Now())
                move(Stage.objects.filter(pk=stage.pk), Status.RUNNING)
                refresh_runs(runs_of(stage))


def _spec(shard: Shard, attempt: int) -> StageSpec:
    stage = shard.stage
    inputs = dict(stage.input_digests)
    shard_inputs = stage.inputs.values_list("name", "upstream__digest")
    return StageSpec(
        kind=stage.kind,
        fingerprint=stage.fingerprint,
        config=stage.config,
        inputs=inputs | dict(shard_inputs),
        shard_index=shard.index,
        shard_count=stage.shard_count,
        attempt=attempt,
    )


def record(claim: Claim, report: Report | None = None) -> None:
    """Extend the lease and store a report in the same transaction. Raises LeaseLost."""
    report = report or Report()
    progress: dict[str, Any] = {}
    if report.progress is not None:
        progress = {
            "progress_done": report.progress.done,
            "progress_resumed": report.progress.resumed,
            "progress_total": report.progress.total,
            "progress_unit": storable(report.progress.unit)[:24],
            "tokens_per_second": finite(report.progress.tokens_per_second),
            "progress_at": Now(),
        }
    with transaction.atomic():
        _fenced(claim, lease_expires=Now() + lease(), **progress)
        _store_metrics(claim, report.metrics)
        LogLine.objects.bulk_create(
            LogLine(
                stage_id=claim.stage_id,
                attempt=claim.attempt,
                level=line.level,
                message=storable(line.message)[:_LONGEST_LOG_LINE],
            )
            for line in report.log
        )


def _fenced(claim: Claim, **values: Any) -> None:
    """Update the claimed shard if it is still this attempt's."""
    mine = Shard.objects.filter(pk=claim.shard_id, attempt=claim.attempt, status=Status.RUNNING)
    if not mine.update(**values):
        message = f"attempt {claim.attempt} of {claim.spec.kind} shard {claim.spec.shard_index} is no longer running"
        raise LeaseLost(message)


def _locked_stage(claim: Claim) -> Stage:
    """Lock the stage of a claim. Raises LeaseLost when it was deleted."""
    for stage in lock_stages(Stage.objects.filter(pk=claim.stage_id)):
        return stage
    message = f"the {claim.spec.kind} stage was deleted while attempt {claim.attempt} ran"
    raise LeaseLost(message)


def _store_metrics(claim: Claim, metrics: Sequence[Metrics]) -> None:
    by_step = {point.step: point for point in metrics}  # one INSERT may not touch a row twice
    MetricPoint.objects.bulk_create(
        (
            MetricPoint(
                stage_id=claim.stage_id,
                step=point.step,
                values={name: finite(value) for name, value in point.values.items()},
            )
            for point in by_step.values()
        ),
        update_conflicts=True,
        unique_fields=["stage", "step"],
        update_fields=["values", "at"],
    )


def finish_shard(claim: Claim, *, digest: str, summary: Mapping[str, Any]) -> None:
    """Store a shard's result; the last shard finishes the stage and opens the next ones, all in one transaction.

    Raises LeaseLost.
    """
    with transaction.atomic():
        stage = _locked_stage(claim)
        _fenced(
            claim,
            status=Status.DONE,
            digest=digest,
            summary=dict(summary),
            finished=Now(),
            lease_expires=None,
            progress_done=F("progress_total"),
        )
        end_attempt(claim.shard_id, claim.attempt, "done")
        if not stage.shards.exclude(status=Status.DONE).exists():
            _finish_stage(stage)


def _finish_stage(stage: Stage) -> None:
    shards = list(stage.shards.order_by("index"))
    digests = [shard.digest for shard in shards]
    stage.digest = digests[0] if len(shards) == 1 else store().commit_parts(digests, kind=stage.kind)
    stage.summary = shards[0].summary if len(shards) == 1 else add_summaries([shard.summary for shard in shards])
    move(Stage.objects.filter(pk=stage.pk, status=Status.READY), Status.RUNNING)
    move(
        Stage.objects.filter(pk=stage.pk),
        Status.DONE,
        digest=stage.digest,
        summary=stage.summary,
        finished=Now(),
        message="",
    )
    record_completion(stage)
    open_downstream(stage)
    refresh_runs(runs_of(stage))
    transaction.on_commit(lambda: store().discard_checkpoints(stage.fingerprint), robust=True)


def fail_shard(claim: Claim, failed: Failed) -> None:
    """Record a failed attempt: the shard is tried again after a delay, or its stage and runs fail.

    Raises LeaseLost.
    """
    with transaction.atomic():
        stage = _locked_stage(claim)
        _fenced(claim, lease_expires=Now() + lease())
        end_in_failure(stage, Shard.objects.get(pk=claim.shard_id), failed)
    withdraw_unwanted()


def release(claim: Claim) -> None:
    """Give a shard back unfinished, because the worker is asked to leave: no failure is counted. Raises LeaseLost."""
    with transaction.atomic():
        stage = _locked_stage(claim)
        _fenced(claim, status=Status.READY, lease_expires=None)
        end_attempt(claim.shard_id, claim.attempt, "released")
        settle_stage(stage)
        ring_for(stage, 1)


def note_worker(*, name: str, queue: str, slots: int, device: str) -> None:
    """Record that a worker process is alive."""
    Worker.objects.update_or_create(
        name=name[:120], defaults={"queue": queue, "slots": slots, "device": device[:120], "seen": Now()}
    )


def withdraw_unwanted() -> None:
    """Stop what only ended runs asked for. A transaction of its own: it locks stages older than a failed one."""
    with transaction.atomic():
        stop_unwanted()
