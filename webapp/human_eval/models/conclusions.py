"""What follows from the answers: whose are not counted, and results that were computed."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from webapp.human_eval.models.campaigns import Campaign
from webapp.human_eval.models.raters import Rater


class Exclusion(models.Model):
    """A recorded decision not to count a rater's answers in a campaign; lifting it is recorded too."""

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="exclusions")
    rater = models.ForeignKey(Rater, on_delete=models.PROTECT, related_name="exclusions")
    reason = models.TextField()
    at = models.DateTimeField(auto_now_add=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    lifted = models.DateTimeField(null=True, blank=True)
    lifted_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering: ClassVar = ["-at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["campaign", "rater"], condition=Q(lifted__isnull=True), name="rater_is_excluded_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.rater} excluded from {self.campaign}"


class ResultsSnapshot(models.Model):
    """Computed results of a campaign in one state of its answers (`key`); anything older is thrown away."""

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="snapshots")
    key = models.CharField(max_length=64)
    values = models.JSONField()
    seconds = models.FloatField(default=0)
    made = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["campaign", "key"], name="snapshot_key_is_unique")]

    def __str__(self) -> str:
        return f"results of {self.campaign}"
