"""Let raters in who have no account: invitation links, one a person, and a link for all participants of a panel.

Tokens are random and shown once; the database has their SHA-256 only, so nobody who reads it can rate in another's
name.
"""

import secrets
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from rso_core.errors import UserError
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.human_eval.models import Campaign, Invitation, PanelLink
from webapp.human_eval.rater_access import token_hash

MOST_AT_ONCE = 200
LONGEST_DAYS = 365
_TOKEN_BYTES = 24


def invite(campaign: Campaign, *, by: User, note: str = "", days: int = 14) -> str:
    """Make an invitation and return its token, which is nowhere else."""
    return invite_many(campaign, by=by, notes=[note], days=days)[0]


def invite_many(campaign: Campaign, *, by: User, notes: list[str], days: int = 14) -> list[str]:
    """Make an invitation for each note (whom it is for; may be empty) and return the tokens in the same order."""
    if not 1 <= len(notes) <= MOST_AT_ONCE or not 1 <= days <= LONGEST_DAYS:
        message = (
            f"1 to {MOST_AT_ONCE} invitations can be made at once, valid for 1 to {LONGEST_DAYS} days; got {len(notes)} "
            f"for {days} days"
        )
        raise UserError(message)
    tokens = [secrets.token_urlsafe(_TOKEN_BYTES) for _ in notes]
    with transaction.atomic():
        for token, note in zip(tokens, notes, strict=True):
            Invitation.objects.create(
                campaign=campaign,
                token_hash=token_hash(token),
                note=note,
                created_by=by,
                expires=Now() + timedelta(days=days),
            )
        record(by, "invited", campaign, invitations=len(tokens), days=days)
    return tokens


def revoke(invitation: Invitation, *, by: User) -> None:
    """Make an invitation useless, and end the visits of whoever came by it; what they rated stays."""
    with transaction.atomic():
        if Invitation.objects.filter(pk=invitation.pk, revoked=None).update(revoked=Now()):
            record(by, "revoked an invitation", invitation.campaign, invitation=invitation.pk, note=invitation.note)


def set_panel_link(campaign: Campaign, values: dict[str, Any], *, by: User) -> PanelLink:
    """Change the settings of a campaign's panel link; the first time it is made, without a usable token."""
    with transaction.atomic():
        unusable = token_hash(secrets.token_urlsafe(_TOKEN_BYTES))
        link, made = PanelLink.objects.update_or_create(
            campaign=campaign, defaults=values, create_defaults={**values, "token_hash": unusable}
        )
        shown = {name: str(value) for name, value in values.items() if name != "completion_code"}
        record(by, "made a panel link" if made else "changed the panel link", campaign, **shown)
    return link


def renew_panel_link(campaign: Campaign, *, by: User) -> str:
    """Give the panel link a new token and return it; the old address ends at once."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    with transaction.atomic():
        if not PanelLink.objects.filter(campaign=campaign).update(token_hash=token_hash(token)):
            message = f"{campaign.name!r} has no panel link yet; save its settings first"
            raise UserError(message)
        record(by, "renewed the panel link", campaign)
    return token
