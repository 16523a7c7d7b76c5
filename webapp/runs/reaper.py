"""Put right what a killed worker, a lost message or a crash between two transactions left behind.

Safe to call at any time, by any number of processes at once: beat and every idle worker do.
"""

from django.db import transaction
from django.db.models import Count, QuerySet
from django.db.models.functions import Now

from webapp.runs.failures import Failed, end_in_failure
from webapp.runs.jobs import withdraw_unwanted
from webapp.runs.models import LIVE, Run, Shard, Stage, StageInput, Status
from webapp.runs.transitions import (
    living_slots,
    lock_stages,
    make_ready,
    ready_shards,
    refresh_runs,
    revive,
    ring_for,
)

_LEASE_LOST = Failed(
    "lease_lost", "nothing was heard of the worker until its lease ran out: it was killed, or cut off from the database"
)


def reap() -> None:
    """Do everything that is due."""
    end_expired_leases()
    withdraw_unwanted()
    open_forgotten_stages()
    with transaction.atomic():
        refresh_runs(Run.objects.all())
    ring_for_unclaimed()


def end_expired_leases() -> None:
    """Take shards away from workers that were not heard of for a whole lease."""
    for stage_id in set(_expired().values_list("stage", flat=True)):
        with transaction.atomic():
            # A locked stage is being finished or stopped by somebody right now; the next round sees what came of it.
            for stage in lock_stages(Stage.objects.filter(pk=stage_id), skip_locked=True):
                for shard in _expired().filter(stage=stage).select_for_update(no_key=True):
                    end_in_failure(stage, shard, _LEASE_LOST)


def _expired() -> QuerySet[Shard]:
    return Shard.objects.filter(status=Status.RUNNING, lease_expires__lt=Now())


def open_forgotten_stages() -> None:
    """Make ready what waits for nothing; try again what was stopped although a live run wants it."""
    unfinished = StageInput.objects.exclude(upstream__status=Status.DONE).values("stage")
    forgotten = Stage.objects.filter(status=Status.WAITING).exclude(pk__in=unfinished)
    stopped = Stage.objects.filter(status=Status.STOPPED, runs__status__in=LIVE)
    ids = {*forgotten.values_list("pk", flat=True), *stopped.values_list("pk", flat=True)}
    with transaction.atomic():
        stages = lock_stages(Stage.objects.filter(pk__in=ids))
        wanted = set(stopped.values_list("pk", flat=True))
        revive(stage for stage in stages if stage.pk in wanted)
        make_ready(stages)


def ring_for_unclaimed() -> None:
    """Ring for due shards, but not oftener than workers are free to hear it: unheard rings would pile up."""
    due = ready_shards().order_by("stage_id").values("stage").annotate(shards=Count("pk"))
    counts = {item["stage"]: item["shards"] for item in due}
    free: dict[str, int] = {}
    with transaction.atomic():
        for stage in Stage.objects.filter(pk__in=counts).order_by("pk"):
            slots = free.setdefault(stage.queue, free_slots(stage.queue))
            heard = min(slots, counts[stage.pk])
            if heard:
                ring_for(stage, heard)
                free[stage.queue] = slots - heard


def free_slots(queue_name: str) -> int:
    """Return how many more pieces of work the living workers of a queue could do now."""
    running = Shard.objects.filter(status=Status.RUNNING, stage__queue=queue_name).count()
    return max(0, living_slots(queue_name) - running)
