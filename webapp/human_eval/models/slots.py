"""Who has what in hand: the rows that are claimed, and leases that have ended."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from webapp.human_eval.models.campaigns import Campaign, Item
from webapp.human_eval.models.raters import Rater


class Slot(models.Model):
    """One wanted replica of an item: the row that is claimed, so that no count ever decides who gets work.

    Slots of main items are made at launch, `number` 0 … replicas − 1. Those of qualification and check items, which
    every rater gets at most once, are made when handed out, with the rater's key as number.
    """

    class Status(models.TextChoices):
        """Where it stands. A lease that has run out can be taken by others, and still be used while nobody has."""

        OPEN = "open", "open"
        LEASED = "leased", "leased"
        SUBMITTED = "submitted", "submitted"
        VOID = "void", "void"

    # Its own index would be no use beside those below, and while nothing is known of a new campaign the planner takes it.
    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="slots", db_index=False)
    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="slots")
    number = models.PositiveBigIntegerField()
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.OPEN)
    priority = models.FloatField(default=0)
    rater = models.ForeignKey(Rater, null=True, blank=True, on_delete=models.PROTECT, related_name="slots")
    token = models.UUIDField(null=True, blank=True, unique=True)  # of the lease
    order = models.CharField(max_length=3, blank=True)  # response indices from left to right, stored at claim time
    ahead = models.BooleanField(default=False)  # claimed as the next one while the rater works on another
    claimed = models.DateTimeField(null=True, blank=True)
    shown = models.DateTimeField(null=True, blank=True)
    lease_expires = models.DateTimeField(null=True, blank=True)
    active_ms = models.PositiveBigIntegerField(default=0)  # visible and not idle, as heartbeats told
    draft = models.JSONField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["item", "number"], name="slot_number_is_unique"),
            models.UniqueConstraint(
                fields=["item", "rater"], condition=Q(rater__isnull=False), name="rater_has_one_slot_of_an_item"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["open", "leased", "submitted", "void"]), name="slot_status_is_known"
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["leased", "submitted"])
                | Q(rater__isnull=False, token__isnull=False, lease_expires__isnull=False) & ~Q(order=""),
                name="taken_slot_has_a_lease",
            ),
            models.CheckConstraint(
                condition=~Q(status="open") | Q(rater__isnull=True, token__isnull=True, order=""),
                name="open_slot_has_no_rater",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["campaign", "priority", "id"], condition=Q(status="open"), name="slot_open"),
            models.Index(fields=["campaign", "lease_expires"], condition=Q(status="leased"), name="slot_leased"),
            models.Index(fields=["campaign", "rater", "status"]),
        ]

    def __str__(self) -> str:
        return f"{self.item} slot {self.number}"


class EndedLease(models.Model):
    """A lease that its rater no longer holds, so that work which arrives late is known for what it is and kept."""

    class Why(models.TextChoices):
        """How it ended without an answer."""

        TAKEN = "taken", "it had run out, and another rater took the task"
        SKIPPED = "skipped", "the rater skipped the task"
        EXCLUDED = "excluded", "the rater was excluded"
        CLOSED = "closed", "the campaign was closed"

    token = models.UUIDField(unique=True)
    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="ended_leases")
    slot = models.ForeignKey(Slot, null=True, blank=True, on_delete=models.SET_NULL, related_name="ended_leases")
    rater = models.ForeignKey(Rater, on_delete=models.PROTECT, related_name="ended_leases")
    order = models.CharField(max_length=3)
    claimed = models.DateTimeField()
    shown = models.DateTimeField(null=True, blank=True)
    active_ms = models.PositiveBigIntegerField(default=0)
    draft = models.JSONField(null=True, blank=True)
    why = models.CharField(max_length=8, choices=Why.choices)
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.rater} had {self.item}"
