"""What Home shows: what is running, what needs this person, who works, what came out lately."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models import Exists, Model, OuterRef, QuerySet
from django.utils import timezone

from webapp.accounts.models import User
from webapp.runs.models import LIVE, Dataset, RegisteredModel, Run, RunStage, Stage, Status, Worker
from webapp.runs.progress import RunProgress, progress_of
from webapp.runs.transitions import WORKER_SEEN_WITHIN

_REMEMBERED = timedelta(days=7)
_SHOWN = 8


@dataclass(frozen=True)
class Need:
    """Something that goes no further until this person acts."""

    title: str
    reason: str
    url: str
    action: str


@dataclass(frozen=True)
class LiveRun:
    """A run that goes on, and the stage it is at."""

    run: Run
    progress: RunProgress

    @property
    def current(self) -> Any:
        """Return the running stage, or the first that is not done."""
        stages = self.progress.stages
        running = (stage for stage in stages if stage.status == Status.RUNNING)
        return next(running, None) or next((stage for stage in stages if stage.status != Status.DONE), None)


@dataclass(frozen=True)
class Overview:
    """Everything on Home."""

    live: list[LiveRun] = field(default_factory=list)
    imports: list[Dataset | RegisteredModel] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    workers: list[tuple[Worker, bool]] = field(default_factory=list)  # and whether it has been seen lately
    waiting_without_worker: list[str] = field(default_factory=list)
    recent: list[tuple[Run, dict[str, Any]]] = field(default_factory=list)
    has_datasets: bool = False
    has_models: bool = False
    has_runs: bool = False

    @property
    def is_new(self) -> bool:
        """Return whether the first steps are still to be done."""
        return not (self.has_datasets and self.has_models and self.has_runs)


def overview(user: User) -> Overview:
    """Return what Home shows to a researcher or an admin."""
    runs, datasets = Run.objects.visible_to(user), Dataset.objects.visible_to(user)
    models = RegisteredModel.objects.visible_to(user)
    live = list(runs.filter(status__in=LIVE).select_related("owner")[:_SHOWN])
    progress = progress_of(live)
    return Overview(
        live=[LiveRun(run, progress[run.pk]) for run in live],
        imports=[*_importing(datasets), *_importing(models)],
        needs=_needs(user),
        workers=_workers(),
        waiting_without_worker=queues_without_worker(),
        recent=_recent(runs),
        has_datasets=datasets.exclude(digest="").exists(),
        has_models=models.exclude(digest="").exists(),
        has_runs=runs.exists(),
    )


def _workers() -> list[tuple[Worker, bool]]:
    now = timezone.now()
    seen = Worker.objects.filter(seen__gte=now - timedelta(days=1)).order_by("name")
    return [(worker, worker.seen >= now - WORKER_SEEN_WITHIN) for worker in seen]


def _importing(items: QuerySet[Any]) -> QuerySet[Any]:
    return (
        items.filter(digest="", stage__status__in=LIVE)
        .select_related("stage", "owner")
        .prefetch_related("stage__shards")
    )


def _needs(user: User) -> list[Need]:
    since = timezone.now() - _REMEMBERED
    ended = (Status.FAILED, Status.OUT_OF_MEMORY)
    runs = Run.objects.filter(owner=user, status__in=ended, created__gte=since)[:_SHOWN]
    needs = [Need(run.name, run.message, run.get_absolute_url(), "See why, and resume") for run in runs]
    kinds: tuple[tuple[type[Model], str], ...] = ((Dataset, "dataset"), (RegisteredModel, "model"))
    for kind, word in kinds:
        failed = _failed_imports(kind, user, ended, since)
        needs += [Need(item.name, item.stage.message, item.get_absolute_url(), f"See the {word}") for item in failed]
    return needs


def _failed_imports(kind: type[Model], user: User, ended: tuple[Status, ...], since: Any) -> QuerySet[Any]:
    items: QuerySet[Any] = kind._default_manager.filter(owner=user, digest="")  # noqa: SLF001 - Django's public API
    return items.filter(stage__status__in=ended, created__gte=since).select_related("stage")[:_SHOWN]


def queues_without_worker() -> list[str]:
    """Return the queues on which work waits although no worker of theirs has been seen lately."""
    waiting = Stage.objects.filter(status=Status.READY).order_by("queue").values_list("queue", flat=True).distinct()
    living = Worker.objects.filter(queue__contains=OuterRef("queue"), seen__gte=timezone.now() - WORKER_SEEN_WITHIN)
    return list(waiting.filter(~Exists(living)))


def _recent(runs: QuerySet[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """Return the runs that ended last, each with the summary of its report."""
    ended = list(runs.exclude(status__in=LIVE).select_related("owner").order_by("-finished", "-created")[:_SHOWN])
    reports = RunStage.objects.filter(run__in=ended, key="report", stage__status=Status.DONE).select_related("stage")
    summaries = {item.run_id: item.stage.summary for item in reports}
    return [(run, summaries.get(run.pk, {})) for run in ended]
