"""Deleting runs, datasets and models: what goes, what remains, and what forbids it.

All of it is decided under the lock that launches and imports hold, so that nothing comes to depend on a thing while it
goes. Rows go at once. Files are noted as unused in the same transaction and removed an hour later, if nothing refers to
them then either (`unused_artifacts.py`): somebody may be computing the same content anew at this moment.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any, TypeAlias

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import PROTECT, Model, ProtectedError, Q

from rso_core.errors import UserError
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.runs.artifacts import store
from webapp.runs.models import LIVE, Dataset, LogLine, Pair, RegisteredModel, Run, RunStage, Shard, Stage, StageInput
from webapp.runs.services import lock_creation_of_stages
from webapp.runs.sharing import may_change
from webapp.runs.transitions import lock_stages
from webapp.runs.unused_artifacts import note_unused

Deletable: TypeAlias = Run | Dataset | RegisteredModel


@dataclass(frozen=True)
class Obstacle:
    """Something that depends on a thing, so that it cannot be deleted; `url` is where to end that, if they may see it."""

    reason: str
    url: str = ""


@dataclass(frozen=True)
class Deletion:
    """What deleting a thing would do, as sentences."""

    goes: list[str] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)


Dependents: TypeAlias = Callable[[User, Model], Iterable[Obstacle]]
_DEPENDENTS: list[Dependents] = []


def depends(find: Dependents) -> None:
    """Let another part of the product say what of it depends on a run, a dataset or a model."""
    _DEPENDENTS.append(find)


def deletion_of(user: User, item: Deletable) -> Deletion:
    """Return what would go and remain if `item` were deleted, and what forbids it, as far as `user` may see it."""
    obstacles = [*_own_obstacles(user, item), *(found for find in _DEPENDENTS for found in find(user, item))]
    stages = _stages_that_go(item)
    digests = {item.digest} if isinstance(item, Dataset | RegisteredModel) else set()
    return Deletion(_goes(item, stages, digests | _digests(stages)), _remains(item, stages), obstacles)


def delete(user: User, item: Deletable) -> None:
    """Delete `item` with the stages, curves, logs and pairs that nothing else needs; raises UserError where it may not go.

    Only its owner and admins may: others get PermissionDenied.
    """
    if not may_change(user, item):
        message = f"only {item.owner.username} or an admin may delete {item.name}."
        raise PermissionDenied(message)
    try:
        with transaction.atomic():
            _delete_locked(user, item)
    except ProtectedError as error:  # something that this module has never heard of
        words = ", ".join(sorted({str(row._meta.verbose_name) for row in error.protected_objects}))  # noqa: SLF001 - Django's public API
        message = f"{item.name} cannot be deleted: a {words} depends on it"
        raise UserError(message) from error


def _delete_locked(user: User, item: Deletable) -> None:
    lock_creation_of_stages()
    lock_stages(_stages_of(item))
    item = type(item)._default_manager.select_for_update(of=("self",)).get(pk=item.pk)  # noqa: SLF001 - Django's public API
    found = deletion_of(user, item)
    if found.obstacles:
        message = f"{item.name} cannot be deleted: {found.obstacles[0].reason}"
        raise UserError(message)
    stages = _stages_that_go(item)
    digests = _digests(stages) | ({item.digest} if isinstance(item, Dataset | RegisteredModel) else set())
    fingerprints = list(Stage.objects.filter(pk__in=stages).values_list("fingerprint", flat=True))
    record(user, "deleted", item, stages=len(stages), goes=found.goes)
    if isinstance(item, Dataset):
        item.derived.update(derived_from=None)
    item.delete()
    StageInput.objects.filter(stage__in=stages).delete()  # before the stages: what is read is protected
    Stage.objects.filter(pk__in=stages).delete()
    note_unused(digests - {""})
    transaction.on_commit(lambda: _discard_checkpoints(fingerprints), robust=True)


def _discard_checkpoints(fingerprints: Iterable[str]) -> None:
    for fingerprint in fingerprints:
        store().discard_checkpoints(fingerprint)


# What forbids it -------------------------------------------------------------------------------------------------------


def _own_obstacles(user: User, item: Deletable) -> list[Obstacle]:
    if isinstance(item, Run):
        live = "it goes on. Stop it first"
        return [Obstacle(live, item.get_absolute_url())] if item.status in LIVE else []
    obstacles = []
    if not item.digest and item.stage is not None and item.stage.status in LIVE:
        obstacles.append(Obstacle("it is being imported. Stop the import first", item.get_absolute_url()))
    runs = Run.objects.filter(_uses(item), status__in=LIVE)
    reason = "the run {name} goes on and uses it. Stop that run first"
    obstacles += named(user, runs, reason, "a run of {owner} goes on and uses it")
    if isinstance(item, Dataset):
        being_made = item.derived.filter(digest="", stage__status__in=LIVE)
        obstacles += named(
            user, being_made, "the dataset {name} is being made from it", "{owner} is making a dataset from it"
        )
    return obstacles


def named(user: User, things: Any, reason: str, otherwise: str) -> list[Obstacle]:
    """Return an obstacle for each of `things`: by its name for those who may see it, else by its owner's."""
    seen = set(things.visible_to(user).values_list("pk", flat=True))
    return [
        Obstacle(reason.format(name=thing.name), thing.get_absolute_url())
        if thing.pk in seen
        else Obstacle(otherwise.format(owner=thing.owner.username))
        for thing in things.select_related("owner").order_by("pk")
    ]


# Where a run's configuration names datasets and models.
DATASET_SETTINGS = ("data__preferences", "data__sft", "gold_reward__preferences")
MODEL_SETTINGS = ("model__base", "reward__model", "gold_reward__model", "judge__model")


def _uses(item: Dataset | RegisteredModel) -> Q:
    """Return the condition on runs that name a dataset or a model."""
    settings = DATASET_SETTINGS if isinstance(item, Dataset) else MODEL_SETTINGS
    return reduce(or_, (Q(**{f"config__{setting}": item.name}) for setting in settings))


# What goes -------------------------------------------------------------------------------------------------------------


def _stages_of(item: Deletable) -> Any:
    return (
        Stage.objects.filter(run_stages__run=item)
        if isinstance(item, Run)
        else Stage.objects.filter(pk__in=[item.stage_id])
    )


def _stages_that_go(item: Deletable) -> set[int]:
    """Return the ended stages of `item` that nothing else belongs to or reads."""
    mine = set(_stages_of(item).exclude(status__in=LIVE).values_list("pk", flat=True))
    for relation in Stage._meta.related_objects:  # noqa: SLF001 - Django's public Meta API
        if relation.on_delete is PROTECT and relation.related_model is not StageInput:
            users = relation.related_model._default_manager.filter(**{f"{relation.field.name}__in": mine})  # noqa: SLF001 - Django's public API
            mine -= set(_others(users, item).values_list(relation.field.name, flat=True))
    while read := set(
        StageInput.objects.filter(upstream__in=mine).exclude(stage__in=mine).values_list("upstream", flat=True)
    ):
        mine -= read
    return mine


def _others(users: Any, item: Deletable) -> Any:
    """Return the rows that refer to a stage for something else than `item`."""
    if users.model is RunStage and isinstance(item, Run):
        return users.exclude(run=item)
    return users.exclude(pk=item.pk) if users.model is type(item) else users


def _digests(stages: set[int]) -> set[str]:
    """Return the artifacts that stages and their shards have made."""
    made = Stage.objects.filter(pk__in=stages).values_list("digest", flat=True)
    parts = Shard.objects.filter(stage__in=stages).values_list("digest", flat=True)
    return {*made, *parts} - {""}


def _goes(item: Deletable, stages: set[int], digests: set[str]) -> list[str]:
    titles = [stage.title for stage in Stage.objects.filter(pk__in=stages).order_by("pk")]
    sentences = [f"the {item._meta.verbose_name} {item.name}, and its name becomes free"]  # noqa: SLF001 - Django's public API
    if isinstance(item, Run):
        sentences = [f"the run {item.name} with its recipe and its results"]
    if titles and isinstance(item, Run):
        pairs = Pair.objects.filter(stage__in=stages).count()
        lines = LogLine.objects.filter(stage__in=stages).count()
        sentences.append(
            f"{_counted(len(titles), 'stage')} that only this run needs, with curves, {_counted(lines, 'line')} of log and "
            f"{_counted(pairs, 'pair')}: {', '.join(titles)}"
        )
    size = sum(store().local_bytes(digest) for digest in digests if digest)
    if size:
        sentences.append(
            f"files of {size / 1e6:,.1f} MB on this machine, within two hours, unless something else needs them"
        )
    return sentences


def _remains(item: Deletable, stages: set[int]) -> list[str]:
    if isinstance(item, Run):
        kept = _stages_of(item).exclude(pk__in=stages).distinct().order_by("pk")
        titles = [stage.title for stage in kept]
        shared = (
            [f"{_counted(len(titles), 'stage')} that something else needs as well: {', '.join(titles)}"]
            if titles
            else []
        )
        return [
            *shared,
            "datasets, models, and runs that were cloned from it",
            "the audit log, which says that it was deleted",
        ]
    users = Run.objects.filter(_uses(item)).count()
    sentences = ["the audit log, which says that it was deleted"]
    if users:
        word = "dataset" if isinstance(item, Dataset) else "model"
        kept = f"their files of it stay until the last of them is deleted; a clone of one needs another {word}"
        sentences.insert(0, f"{_counted(users, 'run')} made with it, with all results: {kept}")
    if isinstance(item, Dataset) and (derived := item.derived.count()):
        sentences.insert(0, f"{_counted(derived, 'dataset')} made from it, which no longer say where they come from")
    return sentences


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
