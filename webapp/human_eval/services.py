"""What researchers do with campaigns: create, open, pause, close, change. Rules that span several tables.

What raters do is in `assignment`, leaving a rater out in `exclusions`.
"""

from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from rso_core.errors import UserError
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.human_eval.changes import edit_campaign, leave_out, rename_systems
from webapp.human_eval.creation import SystemChoice, create_campaign, remove_draft
from webapp.human_eval.draft_contents import change_contents
from webapp.human_eval.invitations import invite, invite_many, renew_panel_link, revoke, set_panel_link
from webapp.human_eval.known_tasks import KnownTask, add_known_item, remove_known_item
from webapp.human_eval.launching import make_slots, refuse_incomplete
from webapp.human_eval.models import Campaign
from webapp.human_eval.responses import retry_responses, stop_responses
from webapp.human_eval.uploads import attach_file

__all__ = [
    "KnownTask",
    "SystemChoice",
    "add_known_item",
    "attach_file",
    "change_contents",
    "create_campaign",
    "edit_campaign",
    "invite",
    "invite_many",
    "leave_out",
    "move",
    "open_campaign",
    "remove_draft",
    "remove_known_item",
    "rename_systems",
    "renew_panel_link",
    "retry_responses",
    "revoke",
    "set_panel_link",
    "stop_responses",
]

_Status = Campaign.Status
_DONE = {_Status.OPEN: "opened", _Status.PAUSED: "paused", _Status.CLOSED: "closed"}


def open_campaign(campaign: Campaign, *, by: User | None) -> int:
    """Open a draft: draw orders and priorities, make items × replicas slots; return how many.

    Of two people who open it at once one does, and the other is told. Raises UserError when something is missing.
    """
    with transaction.atomic():
        _move(campaign, _Status.OPEN, {_Status.DRAFT})
        refuse_incomplete(campaign)
        slots = make_slots(campaign)
        record(by, "opened", campaign, slots=slots)
    campaign.refresh_from_db()
    return slots


def move(campaign: Campaign, to: str, *, by: User | None) -> None:
    """Open, pause or close a campaign. Raises UserError when it may not go there from where it stands."""
    campaign.refresh_from_db(fields=["status"])
    if to == _Status.OPEN and campaign.status == _Status.DRAFT:
        open_campaign(campaign, by=by)
        return
    with transaction.atomic():
        allowed = {status for status, targets in Campaign.MOVES.items() if to in targets} - {_Status.DRAFT}
        before = _move(campaign, to, allowed)
        record(by, _DONE[_Status(to)], campaign, before=before)
    campaign.refresh_from_db()


def _move(campaign: Campaign, to: str, allowed: Iterable[str]) -> str:
    """Write the new status if the campaign may go there from where it stands now; return where it stood."""
    before = Campaign.objects.select_for_update().get(pk=campaign.pk)
    values: dict[str, Any] = {"status": to, "closed": Now() if to == _Status.CLOSED else None}
    if before.opened is None and to == _Status.OPEN:
        values["opened"] = Now()
    if not Campaign.objects.filter(pk=campaign.pk, status__in=allowed).update(**values):
        message = (
            f"{before.name!r} is {before.get_status_display()} by now and cannot become {to} from there; "
            f"load its page again to see what can be done"
        )
        raise UserError(message)
    return before.status
