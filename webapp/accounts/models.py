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
