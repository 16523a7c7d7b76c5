"""People and their roles."""

from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.db import models


class Role(models.TextChoices):
    """What a person may do; each role is explained on the account page."""

    ADMIN = "admin", "Admin"
    RESEARCHER = "researcher", "Researcher"
    RATER = "rater", "Rater"


class User(AbstractUser):
    """A person with one role. Raters see the rating pages only."""

    role = models.CharField(max_length=16, choices=Role.choices, default=Role.RESEARCHER)

    class Meta(AbstractUser.Meta):
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="user_role_is_known"),
        ]

    @property
    def is_admin(self) -> bool:
        """Return whether the person may see and change everything."""
        return self.role == Role.ADMIN or self.is_superuser

    @property
    def may_research(self) -> bool:
        """Return whether the person may see datasets, models and runs."""
        return self.is_admin or self.role == Role.RESEARCHER


class SignInTry(models.Model):
    """A try to sign in that has not succeeded; see `throttle`."""

    address = models.CharField(max_length=64)
    name = models.CharField(max_length=16)  # digest of what was typed as the name
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["address", "name"])]

    def __str__(self) -> str:
        return f"{self.address} {self.at}"


class AuditEntry(models.Model):
    """Who did what to what, and when. Written by `audit.record`; the database refuses to change or delete it.

    `actor` is no constraint of the database: an entry keeps the number of somebody whose account was deleted.
    """

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.ForeignKey(User, null=True, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False)
    actor_name = models.CharField(max_length=150, blank=True)  # outlives the account
    action = models.CharField(max_length=40)  # launched, changed, excluded, exported …
    kind = models.CharField(max_length=40)  # of the thing: run, campaign, rater …
    number = models.BigIntegerField(null=True)  # its key
    label = models.CharField(max_length=200, blank=True)
    details = models.JSONField(default=dict)

    class Meta:
        verbose_name_plural = "audit entries"
        ordering: ClassVar = ["-at", "-id"]
        indexes: ClassVar = [models.Index(fields=["kind", "number"]), models.Index(fields=["action"])]

    def __str__(self) -> str:
        return f"{self.actor_name} {self.action} {self.kind} {self.label}"
