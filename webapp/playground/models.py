"""What researchers ask in the playground, and what each model answers.

A `Question` is one prompt to up to three models; a `Generation` is one model's answer, claimed by a worker under a lease
with the attempt number as fence, as shards are. A rated question becomes an `Item` of its owner's playground campaign.
"""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from webapp.human_eval.models import Item, System
from webapp.runs.models import Run, Stage


class Question(models.Model):
    """A prompt that somebody asks several models at once. `watched` is the page's heartbeat."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="questions")
    prompt = models.TextField()
    messages = models.JSONField()
    prompt_id = models.CharField(max_length=64)
    root = models.CharField(max_length=200)
    is_blind = models.BooleanField(default=True)
    settings = models.JSONField()  # temperature, top_k, max_tokens, seed
    created = models.DateTimeField(auto_now_add=True)
    watched = models.DateTimeField()
    item = models.OneToOneField(Item, null=True, blank=True, on_delete=models.SET_NULL, related_name="question")

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [models.Index(fields=["owner", "-id"])]

    def __str__(self) -> str:
        return f"question {self.pk}"


class Generation(models.Model):
    """One model's answer to a question: what a worker claims. `place` says where it stands, 0 is on the left."""

    class Status(models.TextChoices):
        """Where it stands."""

        WAITING = "waiting", "waiting"
        RUNNING = "running", "running"
        DONE = "done", "done"
        FAILED = "failed", "failed"
        STOPPED = "stopped", "stopped"

    question = models.ForeignKey(Question, on_delete=models.CASCADE, related_name="generations")
    index = models.PositiveSmallIntegerField()  # in the order in which the models were chosen
    place = models.PositiveSmallIntegerField()
    label = models.CharField(max_length=80)
    kind = models.CharField(max_length=8, choices=System.Kind.choices)
    run = models.ForeignKey(Run, null=True, on_delete=models.SET_NULL, related_name="+")
    stage = models.ForeignKey(Stage, null=True, on_delete=models.SET_NULL, related_name="+")
    digest = models.CharField(max_length=64)  # of the model's artifact
    asked = models.JSONField()  # rso_core.interactive.Asked
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.WAITING)
    attempt = models.PositiveSmallIntegerField(default=0)
    worker = models.CharField(max_length=120, blank=True)
    lease_expires = models.DateTimeField(null=True, blank=True)
    text = models.TextField(blank=True)
    tokens = models.PositiveIntegerField(default=0)
    truncated = models.BooleanField(default=False)
    prompt_truncated = models.BooleanField(default=False)
    message = models.TextField(blank=True)  # why it failed or was stopped
    created = models.DateTimeField(auto_now_add=True)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["question_id", "place"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["question", "index"], name="generation_index_is_unique"),
            models.UniqueConstraint(fields=["question", "place"], name="generation_place_is_unique"),
            models.CheckConstraint(condition=Q(index__lte=2, place__lte=2), name="question_has_three_answers"),
            models.CheckConstraint(
                condition=Q(status__in=["waiting", "running", "done", "failed", "stopped"]),
                name="generation_status_is_known",
            ),
            models.CheckConstraint(
                condition=Q(status="running", lease_expires__isnull=False, started__isnull=False)
                | ~Q(status="running") & Q(lease_expires__isnull=True),
                name="running_generation_has_a_lease",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["question", "place"], condition=Q(status="waiting"), name="generation_claimable"),
            models.Index(fields=["status", "finished"]),
        ]

    def __str__(self) -> str:
        return f"{self.question} place {self.place}"


LIVE = (Generation.Status.WAITING, Generation.Status.RUNNING)
