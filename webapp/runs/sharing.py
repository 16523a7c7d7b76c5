"""Who may change what somebody owns, and sharing it."""

from typing import TYPE_CHECKING, TypeAlias

from django.core.exceptions import PermissionDenied
from django.db import transaction

from webapp.accounts.audit import record
from webapp.accounts.models import User

if TYPE_CHECKING:
    from webapp.human_eval.models import Campaign
    from webapp.runs.models import Dataset, RegisteredModel, Run
    from webapp.studies.models import Study

Owned: TypeAlias = "Dataset | RegisteredModel | Run | Campaign | Study"


def may_change(user: User, item: Owned) -> bool:
    """Return whether this person may change the item: its owner, and admins."""
    return user.is_admin or item.owner_id == user.pk


def set_shared(user: User, item: Owned, *, shared: bool) -> str:
    """Share an item or stop sharing it; return the sentence that says so."""
    if not may_change(user, item):
        message = f"only {item.owner.username} or an admin may change who sees {item.name}."
        raise PermissionDenied(message)
    item.shared = shared
    with transaction.atomic():
        item.save(update_fields=["shared"])
        record(user, "shared" if shared else "stopped sharing", item)
    seen_by = "every researcher sees it" if shared else f"only {item.owner.username} and admins see it"
    return f"{item.name}: {seen_by} from now on."
