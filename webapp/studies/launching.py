"""Launch the runs of studies as soon as their data is there. Workers call this now and then; it is safe at any time."""

from django.db import transaction

from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.planner import build_plan
from rso_core.references import datasets_of
from rso_core.run_data import models_of
from webapp.runs.models import FINAL, Dataset, RegisteredModel, Run, Status
from webapp.runs.services import create_run, run_data
from webapp.studies.models import Study, StudyCell

_AT_ONCE = 20  # cells in one go: whoever calls has other things to do


def launch_waiting() -> int:
    """Launch runs of cells that have none yet, of studies that are not paused; return how many."""
    launched = 0
    for study in Study.objects.filter(paused=False, cells__run=None, cells__message="").distinct().order_by("pk"):
        configs = {(cell.arm, cell.seed): cell.config for cell in study.planned_cells}
        for pk in study.cells.filter(run=None, message="").values_list("pk", flat=True):
            if launched >= _AT_ONCE:
                return launched
            launched += _launch(pk, configs)
    return launched


def _launch(pk: int, configs: dict[tuple[str, int], RunConfig]) -> bool:
    """Launch one cell's run, unless somebody else does so right now or its data is not there yet."""
    with transaction.atomic():
        rows = StudyCell.objects.select_for_update(skip_locked=True, of=("self", "study")).select_related(
            "study__owner"
        )
        cell = rows.filter(pk=pk, run=None, message="", study__paused=False).first()
        if cell is None:
            return False
        config = configs[cell.arm, cell.seed]
        waiting, cell.message = _data_of(config, cell.study)
        if not waiting and not cell.message:
            _create(cell, config)
        if cell.run_id or cell.message:
            cell.save(update_fields=["run", "message"])
        return cell.run_id is not None


def _create(cell: StudyCell, config: RunConfig) -> None:
    owner = cell.study.owner
    try:
        with transaction.atomic():
            cell.run = create_run(
                plan=build_plan(config, run_data(config=config, user=owner)), config=config, user=owner
            )
            Run.objects.filter(pk=cell.run.pk).update(shared=cell.study.shared)
    except UserError as error:
        cell.run, cell.message = None, str(error)


def _data_of(config: RunConfig, study: Study) -> tuple[bool, str]:
    """Return whether data is still being imported, and what is wrong with it, if anything."""
    datasets, models = [name for name, _ in datasets_of(config)], list(models_of(config))
    items: list[Dataset | RegisteredModel] = [
        *Dataset.objects.visible_to(study.owner).filter(name__in=datasets).select_related("stage"),
        *RegisteredModel.objects.visible_to(study.owner).filter(name__in=models).select_related("stage"),
    ]
    for item in items:
        if not item.digest and item.stage and item.stage.status in FINAL - {Status.DONE}:
            return False, f"the import of {item.name} failed: {item.stage.message or item.stage.status}"
    return any(not item.digest for item in items), ""
