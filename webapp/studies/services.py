"""What people do with studies: start, pause, resume, extend, share, remove."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import transaction

from rso_core import studies
from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.mini_tldr import DEMO_SIZES
from rso_core.references import built_in_dataset, built_in_model, datasets_of
from rso_core.run_data import models_of
from rso_core.vocabulary import DatasetKind
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.runs.models import LIVE, Dataset, RegisteredModel, Run, Status
from webapp.runs.services import request_dataset_import, request_model_import, resume_run, stop_run
from webapp.runs.sharing import set_shared
from webapp.studies.models import Study, StudyCell

_MODEL = "model"
_SOURCE = "built-in task mini_tldr"
_KINDS: Mapping[str, DatasetKind] = {kind: kind for kind in DEMO_SIZES}


def start_study(*, plan: studies.Study, user: User, token: UUID | None = None) -> Study:
    """Create a study with its cells; workers launch their runs as soon as the data is there.

    A form sent twice with the same token makes one study. Raises UserError when the study names data that this person
    may not see or that does not exist; what belongs to the built-in task is imported.
    """
    with transaction.atomic():
        earlier = Study.objects.filter(launch_token=token, owner=user).first() if token else None
        if earlier is not None:
            return earlier
        study = Study.objects.create(
            owner=user, name=plan.name, preset=plan.preset, definition=plan.model_dump_json(), launch_token=token
        )
        _add_cells(study)
        record(user, "started", study, cells=study.cells.count())
    return study


def _add_cells(study: Study) -> None:
    """Create the cells that the study does not have yet, and ask for the data they need."""
    found = study.planned_cells
    _ask_for_data([cell.config for cell in found], study.owner)
    known = set(study.cells.values_list("arm", "seed"))
    rows = [
        StudyCell(study=study, arm=cell.arm, seed=cell.seed, order=order)
        for order, cell in enumerate(found, start=len(known))
        if (cell.arm, cell.seed) not in known
    ]
    StudyCell.objects.bulk_create(rows)


def _ask_for_data(configs: Iterable[RunConfig], user: User) -> None:
    """Ask for what the recipes name. Raises UserError for what is neither there nor of the built-in task."""
    wanted: dict[tuple[str, str], RunConfig] = {}
    for config in configs:
        named: list[tuple[str, str]] = [*datasets_of(config), *((name, _MODEL) for name in models_of(config))]
        for item in named:
            wanted.setdefault(item, config)
    for (name, kind), config in wanted.items():
        if not _is_there(name, kind, user):
            _import_built_in(name, kind, config, user)


def _is_there(name: str, kind: str, user: User) -> bool:
    if kind == _MODEL:
        return RegisteredModel.objects.visible_to(user).filter(name=name).exists()
    return Dataset.objects.visible_to(user).filter(kind=kind, name=name).exists()


def _import_built_in(name: str, kind: str, config: RunConfig, user: User) -> None:
    made = built_in_model(name) if kind == _MODEL else built_in_dataset(name, _KINDS[kind])
    if made is None:
        what = kind if kind == _MODEL else f"dataset of {Dataset.Kind(kind).label}"
        message = f"no {what} is called {name!r}, or you may not see it; import it first, or correct the name"
        raise UserError(message)
    if kind == _MODEL:
        request_model_import(owner=user, name=name, config=made, source=_SOURCE)
        return
    request_dataset_import(owner=user, name=name, kind=kind, task=config.task, config=made, source=_SOURCE)


def pause_study(*, study: Study, by: User) -> None:
    """Stop the study's runs and launch no more of them; what other runs need goes on."""
    with transaction.atomic():
        if Study.objects.filter(pk=study.pk, paused=False).update(paused=True):
            record(by, "paused", study)
    for run in Run.objects.filter(study_cells__study=study, status__in=LIVE):
        stop_run(run=run)
    study.refresh_from_db()


def resume_study(*, study: Study, by: User) -> None:
    """Go on with what was paused, was stopped or has failed; finished stages and checkpoints are kept."""
    with transaction.atomic():
        Study.objects.filter(pk=study.pk).update(paused=False)
        study.cells.exclude(message="").update(message="")
        record(by, "resumed", study)
    for run in Run.objects.filter(study_cells__study=study).exclude(status__in=[*LIVE, Status.DONE]):
        resume_run(run=run)
    study.refresh_from_db()


def extend_study(*, study: Study, by: User, seeds: Sequence[int], values: Mapping[str, Iterable[Any]]) -> int:
    """Add seeds or values of the grid; return how many cells are new. Raises UserError."""
    with transaction.atomic():
        # Somebody else may have extended it just now.
        study.definition = Study.objects.select_for_update().get(pk=study.pk).definition
        plan = studies.extended(study.plan, seeds=seeds, grid=values)
        before = study.cells.count()
        study.definition = plan.model_dump_json()
        study.save(update_fields=["definition"])
        _add_cells(study)
        added = study.cells.count() - before
        if added:
            record(by, "extended", study, cells=added)
    return added


def share_study(*, study: Study, by: User, shared: bool) -> str:
    """Share a study with its runs, or stop sharing them; return the sentence that says so."""
    with transaction.atomic():
        words = set_shared(by, study, shared=shared)
        Run.objects.filter(study_cells__study=study, owner=study.owner).update(shared=shared)
    return words


def remove_study(*, study: Study, by: User) -> None:
    """Remove a study; its runs remain. Raises UserError while one of them is live."""
    if Run.objects.filter(study_cells__study=study, status__in=LIVE).exists():
        message = f"runs of {study.name} are going on; pause the study first, then remove it. Its runs will remain"
        raise UserError(message)
    with transaction.atomic():
        record(by, "removed", study, runs=study.cells.exclude(run=None).count())
        study.delete()
