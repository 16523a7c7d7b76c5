"""Campaigns, what is rated in them, slots, raters and answers. PostgreSQL is the truth about every hand-out.

A `Campaign` compares two or three `System`s on `Item`s: prompts with one `Response` per system. An item has one `Slot`
per wanted replica; a rater claims a slot under a lease and gives one `Answer`. Answers are stored by response index,
never by the place on the screen; `order` says what stood where. Rules over several rows live in `assignment.py`
(raters' actions), `services.py` (researchers' actions) and `exclusions.py`.
"""

from __future__ import annotations

import secrets
from typing import ClassVar
from uuid import uuid4

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.urls import reverse

from webapp.runs.models import Dataset, OwnedQuerySet, Run, Stage

HIGHEST_QUALITY = 10  # of any scale
LARGEST_CHECK_SHARE = 0.1
_PSEUDONYM_LETTERS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # no letter that looks like another


def new_pseudonym() -> str:
    """Return the name under which a rater's answers are published."""
    return "R-" + "".join(secrets.choice(_PSEUDONYM_LETTERS) for _ in range(8))


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
        return f"{self.campaign} item {self.index}"


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

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="slots")
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


class Answer(models.Model):
    """What a rater said of an item, by response index. Only `counted` answers of main items enter the results."""

    class Standing(models.TextChoices):
        """Whether it counts."""

        COUNTED = "counted", "counted"
        EXCLUDED = "excluded", "excluded with its rater"
        SURPLUS = "surplus", "surplus"  # late: its slot had gone to somebody else, or the campaign had closed

    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="answers")
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
            models.Index(fields=["campaign", "standing"]),
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
