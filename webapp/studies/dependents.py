"""What of studies depends on runs, datasets and models, so that these cannot be deleted."""

from django.db.models import Model

from rso_core.references import datasets_of
from rso_core.run_data import models_of
from webapp.accounts.models import User
from webapp.runs.deletion import Obstacle, named
from webapp.runs.models import Dataset, RegisteredModel, Run
from webapp.studies.models import Study


def studies_of(user: User, item: Model) -> list[Obstacle]:
    """Return the studies whose table holds a run, or whose runs to come need a dataset or a model."""
    if isinstance(item, Run):
        reason = "the study {name} has it in its table. Remove the study first"
        found = Study.objects.filter(cells__run=item).distinct()
        return named(user, found, reason, "a study of {owner} has it in its table")
    if isinstance(item, Dataset | RegisteredModel):
        unfinished = Study.objects.filter(cells__run=None).distinct()
        waiting = [study.pk for study in unfinished if _names(study, item)]
        reason = "runs of the study {name} that are to be launched need it. Remove the study first"
        return named(
            user, Study.objects.filter(pk__in=waiting), reason, "runs of a study of {owner} are to be launched with it"
        )
    return []


def _names(study: Study, item: Dataset | RegisteredModel) -> bool:
    """Return whether a recipe of the study names the item."""
    configs = [cell.config for cell in study.planned_cells]
    if isinstance(item, Dataset):
        return any(name == item.name for config in configs for name, _ in datasets_of(config))
    return any(item.name in models_of(config) for config in configs)
