"""Imports: try a failed one again, stop one that goes on."""

from django.core.exceptions import PermissionDenied
from django.db import transaction

from rso_core.errors import UserError
from rso_core.plan import PlannedStage
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.runs.models import LIVE, UNSUCCESSFUL, Dataset, RegisteredModel, Stage, Status
from webapp.runs.services import ensure_stages
from webapp.runs.sharing import may_change
from webapp.runs.transitions import end_stage, lock_stages

Imported = Dataset | RegisteredModel


def has_failed(item: Imported) -> bool:
    """Return whether the import has ended without a result."""
    return not item.digest and item.stage is not None and item.stage.status in UNSUCCESSFUL


def retry_import(user: User, item: Imported) -> None:
    """Give a failed import new attempts; does nothing to one that goes on or is done."""
    _refuse_others(user, item)
    stage = item.stage
    if stage is not None and has_failed(item):
        planned = PlannedStage(stage.kind, stage.kind, stage.config, {}, stage.input_digests, stage.fingerprint)
        with transaction.atomic():
            ensure_stages([planned])
            record(user, "retried", item)


def stop_import(user: User, item: Imported) -> None:
    """Stop an import that goes on. Raises UserError where none does, or where it is somebody else's import as well."""
    _refuse_others(user, item)
    with transaction.atomic():
        for stage in lock_stages(Stage.objects.filter(pk__in=[item.stage_id], status__in=LIVE)):
            _refuse_to_stop_for_others(stage, item)
            end_stage(stage, Status.STOPPED, message=f"{user.username} stopped it.")
            record(user, "stopped the import of", item)
            return
    message = f"nothing of {item.name!r} is being imported now"
    raise UserError(message)


def _refuse_to_stop_for_others(stage: Stage, item: Imported) -> None:
    """Raise UserError when another dataset or model waits for the same import, as the same file gives one stage."""
    for others in (stage.datasets.all(), stage.models.all()):
        other = others.filter(digest="").exclude(**({"pk": item.pk} if others.model is type(item) else {})).first()
        if other is not None:
            message = f"{other.owner.username} imports the same as {item.name!r} at this moment, and one import serves both; delete {item.name!r} once it is done"
            raise UserError(message)


def _refuse_others(user: User, item: Imported) -> None:
    if not may_change(user, item):
        message = f"only {item.owner.username} or an admin may do this to {item.name}."
        raise PermissionDenied(message)
