"""What raters said: answers and what they were before, tasks that were skipped or flagged."""

from __future__ import annotations

from typing import ClassVar
from uuid import uuid4

from django.db import models
from django.db.models import Q

from webapp.human_eval.models.campaigns import HIGHEST_QUALITY, Campaign, Item
from webapp.human_eval.models.raters import Rater
from webapp.human_eval.models.slots import Slot


class Answer(models.Model):
    """What a rater said of an item, by response index. Only `counted` answers of main items enter the results."""

    class Standing(models.TextChoices):
        """Whether it counts."""

        COUNTED = "counted", "counted"
        EXCLUDED = "excluded", "excluded with its rater"
        SURPLUS = "surplus", "surplus"  # late: its slot had gone to somebody else, or the campaign had closed

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="answers", db_index=False)
    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="answers")
    slot = models.ForeignKey(Slot, null=True, blank=True, on_delete=models.PROTECT, related_name="answers")
    rater = models.ForeignKey(Rater, on_delete=models.PROTECT, related_name="answers")
    client_id = models.UUIDField(default=uuid4, unique=True)  # of the form: sent twice, stored once
    standing = models.CharField(max_length=10, choices=Standing.choices, default=Standing.COUNTED)
    surplus_reason = models.CharField(max_length=120, blank=True)
    order = models.CharField(max_length=3)  # as it was shown
    quality_0 = models.PositiveSmallIntegerField()
    quality_1 = models.PositiveSmallIntegerField()
    quality_2 = models.PositiveSmallIntegerField(null=True, blank=True)  # null in two-way campaigns
    choice = models.PositiveSmallIntegerField(null=True, blank=True)  # response index; null: about the same
    same = models.BooleanField()
    contradicts = models.BooleanField(default=False)  # kept although the chosen one has a lower score than another
    reason = models.TextField(blank=True)
    active_ms = models.PositiveBigIntegerField(default=0)
    elapsed_ms = models.PositiveBigIntegerField(default=0)  # from the first showing to the answer
    submitted = models.DateTimeField()
    changed = models.DateTimeField(auto_now=True)  # of any column, so that cached results know

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["item", "rater"], name="rater_answers_an_item_once"),
            models.UniqueConstraint(
                fields=["slot"], condition=Q(standing="counted"), name="slot_has_one_counted_answer"
            ),
            models.CheckConstraint(
                condition=Q(standing__in=["counted", "excluded", "surplus"]), name="answer_standing_is_known"
            ),
            models.CheckConstraint(
                condition=~Q(standing="counted") | Q(slot__isnull=False), name="counted_answer_has_a_slot"
            ),
            models.CheckConstraint(
                condition=Q(same=True, choice__isnull=True) | Q(same=False, choice__isnull=False),
                name="answer_chooses_one_or_same",
            ),
            models.CheckConstraint(
                condition=Q(choice__isnull=True) | Q(choice__lte=1) | Q(choice=2, quality_2__isnull=False),
                name="answer_chooses_a_response",
            ),
            models.CheckConstraint(
                condition=Q(quality_0__lte=HIGHEST_QUALITY, quality_1__lte=HIGHEST_QUALITY)
                & (Q(quality_2__isnull=True) | Q(quality_2__lte=HIGHEST_QUALITY)),
                name="answer_quality_is_on_a_scale",
            ),
            models.CheckConstraint(
                condition=Q(quality_2__isnull=True, order__in=["01", "10"])
                | Q(quality_2__isnull=False, order__in=["012", "021", "102", "120", "201", "210"]),
                name="answer_order_fits_its_qualities",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["campaign", "rater", "submitted"]),
            models.Index(fields=["campaign", "changed"]),
        ]

    def __str__(self) -> str:
        return f"{self.rater} on {self.item}"


class AnswerVersion(models.Model):
    """What an answer was before its rater changed it."""

    answer = models.ForeignKey(Answer, on_delete=models.CASCADE, related_name="versions")
    at = models.DateTimeField(auto_now_add=True)
    values = models.JSONField()

    class Meta:
        ordering: ClassVar = ["at"]

    def __str__(self) -> str:
        return f"{self.answer} before {self.at}"


class Skip(models.Model):
    """A rater who would rather not answer an item; its slot goes to somebody else."""

    class Reason(models.TextChoices):
        """Why."""

        UNCLEAR = "unclear", "I do not understand it"
        EXPERTISE = "expertise", "It needs knowledge I do not have"
        UPSETTING = "upsetting", "It is upsetting"
        BROKEN = "broken", "Something is broken"
        OTHER = "other", "Another reason"

    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="skips")
    rater = models.ForeignKey(Rater, on_delete=models.PROTECT, related_name="skips")
    reason = models.CharField(max_length=12, choices=Reason.choices)
    note = models.TextField(blank=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["item", "rater"], name="rater_skips_an_item_once")]

    def __str__(self) -> str:
        return f"{self.rater} skipped {self.item}"


class Flag(models.Model):
    """What a rater wants somebody to look at; the answer counts all the same."""

    class Reason(models.TextChoices):
        """What is wrong."""

        NAMES_SYSTEM = "names_system", "A response says which system wrote it"
        UNSAFE = "unsafe", "Harmful or offensive"
        BROKEN = "broken", "Shown wrongly or cut"
        OTHER = "other", "Something else"

    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="flags")
    rater = models.ForeignKey(Rater, on_delete=models.PROTECT, related_name="flags")
    response = models.PositiveSmallIntegerField(null=True, blank=True)  # index; null: the prompt or all
    reason = models.CharField(max_length=16, choices=Reason.choices)
    note = models.TextField(blank=True)
    at = models.DateTimeField(auto_now_add=True)
    settled = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.rater} flagged {self.item}"
