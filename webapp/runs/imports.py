"""Imports that failed: try them again, or remove what they were to become."""

from django.core.exceptions import PermissionDenied
from django.db import transaction

from rso_core.errors import UserError
from rso_core.plan import PlannedStage
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.runs.models import UNSUCCESSFUL, Dataset, RegisteredModel, Stage
from webapp.runs.services import ensure_stages
from webapp.runs.sharing import may_change

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


def remove_failed(user: User, item: Imported) -> None:
    """Remove what a failed import was to become, so that its name is free again. Raises UserError once it is imported."""
    _refuse_others(user, item)
    with transaction.atomic():
        if item.stage is not None:
            Stage.objects.select_for_update().get(pk=item.stage.pk)  # no import finishes meanwhile
        unfinished = type(item)._default_manager.filter(pk=item.pk, digest="", stage__status__in=UNSUCCESSFUL)  # noqa: SLF001 - Django's public API
        record(user, "removed", item)
        if not unfinished.delete()[0]:
            message = f"{item.name!r} is imported or being imported; only a failed import can be removed"
            raise UserError(message)


def _refuse_others(user: User, item: Imported) -> None:
    if not may_change(user, item):
        message = f"only {item.owner.username} or an admin may do this to {item.name}."
        raise PermissionDenied(message)
