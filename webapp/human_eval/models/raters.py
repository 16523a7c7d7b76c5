"""Who rates: people known by a pseudonym, their part in a campaign, and the links by which they come in."""

from __future__ import annotations

import secrets
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from webapp.human_eval.models.campaigns import Campaign

_PSEUDONYM_LETTERS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # no letter that looks like another


def new_pseudonym() -> str:
    """Return the name under which a rater's answers are published."""
    return "R-" + "".join(secrets.choice(_PSEUDONYM_LETTERS) for _ in range(8))


class Rater(models.Model):
    """Somebody who rates, known in exports by a pseudonym only. Deleting the account keeps the answers."""

    class Origin(models.TextChoices):
        """How the rater came."""

        ACCOUNT = "account", "account"
        INVITATION = "invitation", "invitation link"
        PANEL = "panel", "panel link"

    pseudonym = models.CharField(max_length=16, unique=True, default=new_pseudonym, editable=False)
    origin = models.CharField(max_length=12, choices=Origin.choices)
    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="rater"
    )
    panel_id = models.CharField(max_length=200, blank=True)  # the panel's participant id
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["panel_id"], condition=~Q(panel_id=""), name="panel_id_is_unique"),
        ]

    def __str__(self) -> str:
        return self.pseudonym


class Participation(models.Model):
    """A rater in a campaign: consent, qualification, and who let them in."""

    class Qualification(models.TextChoices):
        """Whether the rater may get counted items."""

        PENDING = "pending", "pending"
        PASSED = "passed", "passed"
        FAILED = "failed", "failed"

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="participations")
    rater = models.ForeignKey(Rater, on_delete=models.PROTECT, related_name="participations")
    consent_version = models.PositiveIntegerField(null=True, blank=True)  # that the rater agreed to
    consented = models.DateTimeField(null=True, blank=True)
    qualification = models.CharField(max_length=8, choices=Qualification.choices, default=Qualification.PENDING)
    panel_session = models.CharField(max_length=200, blank=True)
    finished = models.DateTimeField(null=True, blank=True)  # saw an end page with nothing left for them
    joined = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["campaign", "rater"], name="rater_joins_a_campaign_once"),
        ]

    def __str__(self) -> str:
        return f"{self.rater} in {self.campaign}"


class Invitation(models.Model):
    """A link for one person without an account. Only the SHA-256 of its token is stored; POST accepts it."""

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="invitations")
    token_hash = models.CharField(max_length=64, unique=True)
    note = models.CharField(max_length=120, blank=True)  # for the researcher: whom it was given to
    created = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    expires = models.DateTimeField()
    revoked = models.DateTimeField(null=True, blank=True)
    accepted = models.DateTimeField(null=True, blank=True)
    rater = models.OneToOneField(Rater, null=True, blank=True, on_delete=models.PROTECT, related_name="invitation")

    class Meta:
        ordering: ClassVar = ["-created"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(accepted__isnull=True, rater__isnull=True) | Q(accepted__isnull=False, rater__isnull=False),
                name="accepted_invitation_has_a_rater",
            ),
        ]

    def __str__(self) -> str:
        return f"invitation {self.pk} to {self.campaign}"


class PanelLink(models.Model):
    """One link for all participants of a panel, who are told apart by a parameter of it (Prolific and its like)."""

    campaign = models.OneToOneField(Campaign, on_delete=models.CASCADE, related_name="panel_link")
    token_hash = models.CharField(max_length=64, unique=True)
    id_parameter = models.CharField(max_length=40, default="PROLIFIC_PID")
    session_parameter = models.CharField(max_length=40, blank=True, default="SESSION_ID")
    completion_code = models.CharField(max_length=80, blank=True)
    return_url = models.URLField(max_length=500, blank=True)
    expires = models.DateTimeField(null=True, blank=True)
    active = models.BooleanField(default=True)
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"panel link of {self.campaign}"
