"""What is compared: campaigns, their systems, and prompts with one response of each system."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.urls import reverse

from webapp.runs.models import Dataset, OwnedQuerySet, Run, Stage

HIGHEST_QUALITY = 10  # of any scale
LARGEST_CHECK_SHARE = 0.1


class Campaign(models.Model):
    """A comparison of systems by people: what is asked, of whom, and how often."""

    class Kind(models.TextChoices):
        """How its items come about."""

        CAMPAIGN = "campaign", "campaign"
        PLAYGROUND = "playground", "playground"

    class Status(models.TextChoices):
        """Where it stands. Only an open one hands out work; closing can be undone."""

        DRAFT = "draft", "draft"
        OPEN = "open", "open"
        PAUSED = "paused", "paused"
        CLOSED = "closed", "closed"

    MOVES: ClassVar[dict[str, frozenset[str]]] = {
        Status.DRAFT: frozenset({Status.OPEN}),
        Status.OPEN: frozenset({Status.PAUSED, Status.CLOSED}),
        Status.PAUSED: frozenset({Status.OPEN, Status.CLOSED}),
        Status.CLOSED: frozenset({Status.OPEN, Status.PAUSED}),
    }

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="campaigns")
    shared = models.BooleanField(default=False)
    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.CAMPAIGN)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.DRAFT)
    task = models.CharField(max_length=16, choices=[("summarization", "summarisation"), ("dialogue", "dialogue")])
    way = models.PositiveSmallIntegerField(default=3)  # responses of an item: three, or two (win, loss, tie)

    # What is shown. The title is for raters: it must not tell what is compared.
    title = models.CharField(max_length=120)
    instructions = models.TextField(blank=True)  # Markdown
    consent = models.TextField(blank=True)  # Markdown; empty: none is asked for
    consent_version = models.PositiveIntegerField(default=1)
    quality_question = models.CharField(max_length=200)
    choice_question = models.CharField(max_length=200)
    same_label = models.CharField(max_length=80, default="About the same")
    scale_min = models.PositiveSmallIntegerField(default=1)
    scale_max = models.PositiveSmallIntegerField(default=5)
    anchors = models.JSONField(default=dict)  # words of some scale points: {"1": "Poor", "5": "Excellent"}

    # How it is handed out.
    replicas = models.PositiveSmallIntegerField(default=3)
    lease_seconds = models.PositiveIntegerField(default=1800)
    max_items_per_rater = models.PositiveIntegerField(null=True, blank=True)
    check_share = models.FloatField(
        default=0.0, validators=[MinValueValidator(0), MaxValueValidator(LARGEST_CHECK_SHARE)]
    )
    qualification_pass = models.PositiveSmallIntegerField(default=0)  # right answers needed of the qualification items
    seed = models.BigIntegerField(default=0)  # of orders, priorities and bootstraps

    # Where the prompts come from.
    dataset = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.PROTECT, related_name="campaigns")
    split = models.CharField(max_length=12, blank=True)
    num_items = models.PositiveIntegerField(default=100)

    created = models.DateTimeField(auto_now_add=True)
    opened = models.DateTimeField(null=True, blank=True)
    closed = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["Campaign"].as_manager()

    class Meta:
        ordering: ClassVar = ["-created"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["owner", "name"], name="campaign_name_is_unique"),
            models.UniqueConstraint(
                fields=["owner"], condition=Q(kind="playground"), name="researcher_has_one_playground"
            ),
            models.CheckConstraint(condition=Q(way__in=[2, 3]), name="campaign_is_two_or_three_way"),
            models.CheckConstraint(condition=Q(replicas__gte=1, replicas__lte=25), name="campaign_has_replicas"),
            models.CheckConstraint(
                condition=Q(scale_min__lt=F("scale_max"), scale_max__lte=HIGHEST_QUALITY),
                name="campaign_scale_is_ordered",
            ),
            models.CheckConstraint(
                condition=Q(check_share__gte=0, check_share__lte=LARGEST_CHECK_SHARE),
                name="campaign_check_share_is_small",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["draft", "open", "paused", "closed"]), name="campaign_status_is_known"
            ),
            models.CheckConstraint(condition=Q(lease_seconds__gte=30), name="campaign_lease_is_workable"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Return the campaign's page."""
        return reverse("campaign", args=[self.pk])


class System(models.Model):
    """One of the compared systems. Everything here is hidden from raters."""

    class Kind(models.TextChoices):
        """Where its responses come from."""

        POLICY = "policy", "policy of a run"
        SFT = "sft", "SFT model of a run"
        TARGET = "target", "SFT target"
        FILE = "file", "uploaded responses"
        MODEL = "model", "registered model"  # in the playground

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="systems")
    index = models.PositiveSmallIntegerField()  # index of its responses in items of a campaign
    label = models.CharField(max_length=80)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.PROTECT, related_name="rated_as")
    stage = models.ForeignKey(Stage, null=True, blank=True, on_delete=models.PROTECT, related_name="rated_systems")
    upload_digest = models.CharField(max_length=64, blank=True)
    upload_name = models.CharField(max_length=120, blank=True)
    is_reference = models.BooleanField(default=False)  # of a two-way campaign: what the other is compared with

    class Meta:
        ordering: ClassVar = ["index"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["campaign", "index"], name="system_index_is_unique"),
            models.UniqueConstraint(fields=["campaign", "label"], name="system_label_is_unique"),
        ]

    def __str__(self) -> str:
        return self.label


class Item(models.Model):
    """A prompt with its responses."""

    class Kind(models.TextChoices):
        """What its answers are for."""

        MAIN = "main", "counted"
        QUALIFICATION = "qualification", "qualification"
        CHECK = "check", "check"

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="items")
    index = models.PositiveIntegerField()
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.MAIN)
    prompt_id = models.CharField(max_length=64, blank=True)
    root = models.CharField(max_length=200, blank=True)  # conversation root: the cluster of every interval
    prompt = models.TextField()
    messages = models.JSONField(default=list)  # of a dialogue: [{"role", "content"}]
    base_order = models.CharField(max_length=3, default="012")  # first row of its Latin square
    priority = models.FloatField(default=0)  # low first; drawn by seed at launch
    expected_choice = models.PositiveSmallIntegerField(null=True, blank=True)  # response index that is best
    expected_same = models.BooleanField(default=False)
    feedback = models.TextField(blank=True)  # shown after a qualification answer

    class Meta:
        ordering: ClassVar = ["campaign_id", "index"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["campaign", "index"], name="item_index_is_unique"),
            models.CheckConstraint(
                condition=Q(base_order__in=["01", "10", "012", "021", "102", "120", "201", "210"]),
                name="item_base_order_is_a_permutation",
            ),
            models.CheckConstraint(
                condition=Q(kind="main")
                | Q(expected_choice__isnull=False, expected_same=False)
                | Q(expected_choice__isnull=True, expected_same=True),
                name="known_item_has_an_expected_answer",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["campaign", "kind"])]

    def __str__(self) -> str:
        return f"{self.campaign} item {self.number}"

    @property
    def number(self) -> int:
        """Return what people call the item: counted from 1, on pages, in addresses, in exports and in the audit log."""
        return self.index + 1


class Response(models.Model):
    """What one system answered. `index` is the identity that answers refer to; `system` is null in known items."""

    item = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="responses")
    index = models.PositiveSmallIntegerField()
    system = models.ForeignKey(System, null=True, blank=True, on_delete=models.PROTECT, related_name="responses")
    text = models.TextField(blank=True)
    truncated = models.BooleanField(default=False)
    named = models.CharField(max_length=80, blank=True)  # the system or vendor name found in it

    class Meta:
        ordering: ClassVar = ["item_id", "index"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["item", "index"], name="response_index_is_unique"),
            models.CheckConstraint(condition=Q(index__lte=2), name="response_index_is_small"),
        ]

    def __str__(self) -> str:
        return f"{self.item} response {self.index}"
