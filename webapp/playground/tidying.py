"""End what nobody waits for, what takes too long and what a lost worker left. Safe to call at any time, by anybody."""

from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Now

from webapp.playground import limits
from webapp.playground.models import LIVE, Generation

_Status = Generation.Status
TOO_LONG = (
    f"it took longer than {limits.LONGEST_WORK.total_seconds():.0f} s; ask for a shorter answer, or a smaller model"
)
NO_WORKER = (
    f"no worker took it within {limits.LONGEST_WAIT.total_seconds() / 60:.0f} minutes; see on Home whether workers run"
)
WORKER_LOST = (
    "the worker was lost twice while it answered: it was killed, or memory ran out. Ask again, or another model"
)
UNWATCHED = "nobody was watching any more"


def tidy() -> None:
    """Do everything that is due."""
    live = Generation.objects.filter(status__in=LIVE)
    stop(live.filter(question__watched__lt=Now() - limits.UNWATCHED), UNWATCHED)
    running = live.filter(status=_Status.RUNNING)
    fail(running.filter(started__lt=Now() - limits.LONGEST_WORK), TOO_LONG)
    fail(live.filter(status=_Status.WAITING, created__lt=Now() - limits.LONGEST_WAIT), NO_WORKER)
    lost = running.filter(lease_expires__lt=Now())
    fail(lost.filter(attempt__gte=limits.ATTEMPTS), WORKER_LOST)
    give_back(lost)


def stop(generations: QuerySet[Generation], message: str) -> None:
    """Stop these; what is written of them stays."""
    _move(generations, status=_Status.STOPPED, message=message, finished=Now())


def fail(generations: QuerySet[Generation], message: str) -> None:
    """Fail these; what is written of them stays."""
    _move(generations, status=_Status.FAILED, message=message, finished=Now())


def give_back(generations: QuerySet[Generation], **values: Any) -> None:
    """Let another worker begin these anew."""
    _move(generations, status=_Status.WAITING, text="", tokens=0, worker="", started=None, **values)


def _move(generations: QuerySet[Generation], **values: Any) -> None:
    """Write to those that are live still, and as they were found: a worker may be finishing or claiming them now."""
    for key, attempt in generations.values_list("pk", "attempt"):
        mine = Generation.objects.filter(pk=key, attempt=attempt, status__in=LIVE)
        mine.update(lease_expires=None, **values)


def is_waited_for() -> bool:
    """Return whether there is an answer that a worker could take now or in a moment."""
    watched = Generation.objects.filter(question__watched__gte=Now() - limits.UNWATCHED)
    return watched.filter(status=_Status.WAITING).exists()
