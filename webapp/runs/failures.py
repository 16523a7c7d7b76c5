"""What follows when an attempt at a shard ends without a result: another attempt, or the end of its stage."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from django.conf import settings
from django.db.models.functions import Now

from webapp.runs.models import Attempt, LogLine, Shard, Stage, Status
from webapp.runs.text import storable
from webapp.runs.transitions import end_stage, move, refresh_runs, runs_of

Reason = Literal["user", "out_of_memory", "transient", "internal", "killed", "lease_lost"]

# Failed attempts in a row, none of which got further than those before, after which a stage fails. `user` and
# `out_of_memory` are not here: the same work would fail the same way.
BOUNDS: dict[Reason, int] = {"transient": 5, "killed": 5, "lease_lost": 5, "internal": 2}
_LONGEST_DELAY = timedelta(minutes=10)


@dataclass(frozen=True)
class Failed:
    """How an attempt failed; `exit_code` is negative when a signal ended the runner."""

    reason: Reason
    message: str
    traceback: str = ""
    exit_code: int | None = None


def lease() -> timedelta:
    """Return how long a worker that is not heard of keeps its work."""
    return timedelta(seconds=settings.LEASE_SECONDS)


def retry_delay(failures: int) -> timedelta:
    """Return the pause after this many failures in a row: it doubles, up to ten minutes."""
    first = timedelta(seconds=settings.RETRY_SECONDS)
    return min(first * (1 << min(failures - 1, 16)), _LONGEST_DELAY)


def end_attempt(shard_id: int, attempt: int, outcome: str, *, exit_code: int | None = None, message: str = "") -> None:
    """Record how an attempt ended."""
    Attempt.objects.filter(shard_id=shard_id, number=attempt).update(
        ended=Now(), outcome=outcome, exit_code=exit_code, message=message
    )


def settle_stage(stage: Stage) -> None:
    """Show a locked stage as ready again when none of its shards runs any more."""
    if not stage.shards.filter(status=Status.RUNNING).exists():
        move(Stage.objects.filter(pk=stage.pk), Status.READY)
        refresh_runs(runs_of(stage))


def end_in_failure(stage: Stage, shard: Shard, failed: Failed) -> None:
    """End the attempt of a running shard; retry it, or fail its stage. `stage` is locked."""
    failed = replace(failed, message=storable(failed.message), traceback=storable(failed.traceback))
    end_attempt(shard.pk, shard.attempt, failed.reason, exit_code=failed.exit_code, message=failed.message)
    # A laptop that is closed every evening loses the lease every evening: getting further starts the count again.
    shard.failures = 1 if shard.progress_done > shard.furthest else shard.failures + 1
    shard.furthest = max(shard.progress_done, shard.furthest)
    if failed.reason in BOUNDS and shard.failures < BOUNDS[failed.reason]:
        _retry(stage, shard, failed)
    else:
        _give_up(stage, shard, failed)


def _retry(stage: Stage, shard: Shard, failed: Failed) -> None:
    delay = retry_delay(shard.failures)
    move(
        Shard.objects.filter(pk=shard.pk, attempt=shard.attempt),
        Status.READY,
        failures=shard.failures,
        furthest=shard.furthest,
        not_before=Now() + delay,
        lease_expires=None,
    )
    again = f"{failed.message}. Trying again in {delay.total_seconds():g} s (attempt {shard.attempt} ended: {failed.reason})"
    LogLine.objects.create(stage=stage, attempt=shard.attempt, level="warning", message=again)
    settle_stage(stage)


def _give_up(stage: Stage, shard: Shard, failed: Failed) -> None:
    status = Status.OUT_OF_MEMORY if failed.reason == "out_of_memory" else Status.FAILED
    move(
        Shard.objects.filter(pk=shard.pk, attempt=shard.attempt),
        status,
        failures=shard.failures,
        furthest=shard.furthest,
        finished=Now(),
        lease_expires=None,
    )
    tries = f" ({shard.failures} attempts in a row got no further)" if failed.reason in BOUNDS else ""
    move(Stage.objects.filter(pk=stage.pk, status=Status.READY), Status.RUNNING)
    end_stage(stage, status, message=failed.message + tries, traceback=failed.traceback)
    refresh_runs(runs_of(stage))
