"""Datasets, models, stages and runs. The database is the truth about every piece of work.

A `Stage` is one durable unit of work, identified by its fingerprint and shared by all runs that need it. It
has one or more `Shard`s: the rows that workers claim, under a lease, with the attempt number as fence. A `Run`
is a named selection of stages. Rules over several rows live in `services.py` (people's actions) and
`jobs.py` (workers' actions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.urls import reverse

from rso_core.plan import TITLES

if TYPE_CHECKING:
    from webapp.accounts.models import User


class Status(models.TextChoices):
    """Where a stage, a shard or a run stands."""

    WAITING = "waiting", "waiting"  # for its inputs
    READY = "ready", "ready"  # for a worker
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    OUT_OF_MEMORY = "out_of_memory", "out of memory"
    STOPPED = "stopped", "stopped"

    @property
    def is_final(self) -> bool:
        """Return whether nothing more happens without somebody asking."""
        return self in FINAL


FINAL = frozenset({Status.DONE, Status.FAILED, Status.OUT_OF_MEMORY, Status.STOPPED})
UNSUCCESSFUL = FINAL - {Status.DONE}

LIVE = frozenset({Status.WAITING, Status.READY, Status.RUNNING})

# The legal moves of stages and shards; every move is one conditional UPDATE whose row count decides the winner.
MOVES: dict[Status, frozenset[Status]] = {
    Status.WAITING: frozenset({Status.READY, Status.STOPPED, Status.FAILED}),
    Status.READY: frozenset({Status.RUNNING, Status.STOPPED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.READY, Status.DONE, Status.FAILED, Status.OUT_OF_MEMORY, Status.STOPPED}),
    Status.DONE: frozenset(),
    Status.FAILED: frozenset({Status.WAITING, Status.READY}),
    Status.OUT_OF_MEMORY: frozenset({Status.WAITING, Status.READY}),
    Status.STOPPED: frozenset({Status.WAITING, Status.READY}),
}


def _status_field() -> models.CharField[str, str]:
    return models.CharField(max_length=16, choices=Status.choices, default=Status.WAITING)


_Row = TypeVar("_Row", bound=models.Model)


class OwnedQuerySet(models.QuerySet[_Row]):
    """Rows that belong to somebody and may be shared."""

    def visible_to(self, user: User) -> Self:
        """Return the rows this person may see: admins all, researchers their own and shared ones."""
        if user.is_admin:
            return self
        return self.filter(Q(owner=user) | Q(shared=True)) if user.may_research else self.none()


class Stage(models.Model):
    """One durable unit of work with one output artifact (design: fingerprint, config, inputs)."""

    fingerprint = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=32)
    queue = models.CharField(max_length=8)
    config = models.JSONField(default=dict)
    input_digests = models.JSONField(default=dict)  # imported datasets and models, by input name
    shard_count = models.PositiveIntegerField(default=1)
    work = models.CharField(max_length=200, blank=True)
    work_units = models.FloatField(null=True, blank=True)  # the same as a number, to learn seconds per unit from
    status = _status_field()
    message = models.TextField(blank=True)  # why it failed, for people
    traceback = models.TextField(blank=True)
    digest = models.CharField(max_length=64, blank=True)  # of the output artifact
    summary = models.JSONField(default=dict)
    created = models.DateTimeField(auto_now_add=True)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(status__in=Status.values), name="stage_status_is_known"),
            models.CheckConstraint(condition=~Q(status="done") | ~Q(digest=""), name="done_stage_has_artifact"),
            models.CheckConstraint(condition=Q(shard_count__gte=1), name="stage_has_a_shard"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["status", "queue"]),
            models.Index(fields=["finished"], condition=Q(status="done"), name="stage_done_finished"),
        ]

    def __str__(self) -> str:
        return f"{self.title} {self.fingerprint[:8]}"

    @property
    def title(self) -> str:
        """Return the stage's name for people."""
        return TITLES[self.kind]


class StageInput(models.Model):
    """An arrow of the graph: `stage` reads the artifact of `upstream` under `name`."""

    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="inputs")
    name = models.CharField(max_length=32)
    upstream = models.ForeignKey(Stage, on_delete=models.PROTECT, related_name="outputs")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["stage", "name"], name="stage_input_name_is_unique"),
            models.CheckConstraint(condition=~Q(stage=F("upstream")), name="stage_does_not_read_itself"),
        ]

    def __str__(self) -> str:
        return f"{self.stage} ← {self.name}"


class Shard(models.Model):
    """The piece of a stage that one worker claims. `attempt` is the fence: a write with an older one is refused."""

    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="shards")
    index = models.PositiveIntegerField(default=0)
    status = _status_field()
    attempt = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)  # failed attempts in a row that got no further
    furthest = models.BigIntegerField(default=0)  # progress of the failed attempt that got furthest
    worker = models.CharField(max_length=120, blank=True)
    lease_expires = models.DateTimeField(null=True, blank=True)
    not_before = models.DateTimeField(null=True, blank=True)
    digest = models.CharField(max_length=64, blank=True)
    summary = models.JSONField(default=dict)
    progress_done = models.BigIntegerField(default=0)
    progress_resumed = models.BigIntegerField(default=0)  # of what is done: by earlier attempts
    progress_total = models.BigIntegerField(default=0)
    progress_unit = models.CharField(max_length=24, blank=True)
    tokens_per_second = models.FloatField(null=True, blank=True)
    started = models.DateTimeField(null=True, blank=True)
    progress_at = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["stage_id", "index"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["stage", "index"], name="shard_index_is_unique"),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="shard_status_is_known"),
            models.CheckConstraint(
                condition=~Q(status="running") | Q(lease_expires__isnull=False), name="running_shard_has_a_lease"
            ),
            models.CheckConstraint(condition=~Q(status="done") | ~Q(digest=""), name="done_shard_has_artifact"),
        ]
        indexes: ClassVar = [models.Index(fields=["status", "lease_expires"])]

    def __str__(self) -> str:
        return f"{self.stage} shard {self.index}"


class Attempt(models.Model):
    """One try of a shard and how it ended."""

    shard = models.ForeignKey(Shard, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    worker = models.CharField(max_length=120)
    started = models.DateTimeField(auto_now_add=True)
    ended = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(
        max_length=24, blank=True
    )  # done, user, out_of_memory, transient, internal, killed, lease_lost, stopped
    exit_code = models.IntegerField(null=True, blank=True)  # negative: the signal that ended the runner
    message = models.TextField(blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["shard", "number"], name="attempt_number_is_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.shard} attempt {self.number}"


class MetricPoint(models.Model):
    """The values of a stage's curves at one step. A resumed training writes a step again, not twice."""

    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    values = models.JSONField()
    at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["step"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["stage", "step"], name="metric_step_is_unique")]

    def __str__(self) -> str:
        return f"{self.stage} step {self.step}"


class LogLine(models.Model):
    """A line of a stage's log, for people."""

    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="log")
    at = models.DateTimeField(auto_now_add=True)
    attempt = models.PositiveIntegerField(default=0)
    level = models.CharField(max_length=8, default="info")
    message = models.TextField()

    class Meta:
        ordering: ClassVar = ["id"]

    def __str__(self) -> str:
        return self.message


class Dataset(models.Model):
    """Imported data. Rows live in the artifact `digest`; nothing is lost silently: rows in = kept + rejected."""

    class Kind(models.TextChoices):
        """What a row holds."""

        PREFERENCE = "preference", "preference pairs"
        SFT = "sft", "prompts with targets"
        PROMPTS = "prompts", "prompts"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="datasets")
    shared = models.BooleanField(default=True)
    name = models.CharField(max_length=80, unique=True)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    task = models.CharField(max_length=16, choices=[("summarization", "summarisation"), ("dialogue", "dialogue")])
    source = models.CharField(max_length=300, blank=True)
    licence = models.CharField(max_length=120, blank=True)
    stage = models.ForeignKey(Stage, null=True, blank=True, on_delete=models.PROTECT, related_name="datasets")
    derived_from = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="derived")
    digest = models.CharField(max_length=64, blank=True)  # empty until the import has finished
    rows_in = models.PositiveBigIntegerField(default=0)
    rows_kept = models.PositiveBigIntegerField(default=0)
    rows_rejected = models.PositiveBigIntegerField(default=0)
    summary = models.JSONField(default=dict)  # what the importer counted, by reason
    created = models.DateTimeField(auto_now_add=True)

    objects = OwnedQuerySet["Dataset"].as_manager()

    class Meta:
        ordering: ClassVar = ["-created"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(rows_in=F("rows_kept") + F("rows_rejected")), name="dataset_rows_are_conserved"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Return the dataset's page."""
        return reverse("dataset", args=[self.pk])


class RegisteredModel(models.Model):
    """A language model known to the product: imported, or the output of a stage."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="models")
    shared = models.BooleanField(default=True)
    name = models.CharField(max_length=120, unique=True)
    source = models.CharField(max_length=300, blank=True)
    licence = models.CharField(max_length=120, blank=True)
    stage = models.ForeignKey(Stage, null=True, blank=True, on_delete=models.PROTECT, related_name="models")
    family = models.CharField(max_length=8, blank=True)  # causal or seq2seq, known after the import
    digest = models.CharField(max_length=64, blank=True)
    summary = models.JSONField(default=dict)  # parameters, vocabulary, chat template, tokenizer digest
    created = models.DateTimeField(auto_now_add=True)

    objects = OwnedQuerySet["RegisteredModel"].as_manager()

    class Meta:
        ordering: ClassVar = ["-created"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Return the model's page."""
        return reverse("model", args=[self.pk])


class Run(models.Model):
    """A recipe somebody launched. Its status follows from its stages, except that people stop and resume it."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="runs")
    shared = models.BooleanField(default=False)
    name = models.CharField(max_length=120)
    config = models.JSONField()
    schema_version = models.PositiveIntegerField()
    status = _status_field()
    message = models.TextField(blank=True)
    cloned_from = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="clones")
    launch_token = models.UUIDField(null=True, blank=True, unique=True, editable=False)  # of the form: one run each
    stages: models.ManyToManyField[Stage, RunStage] = models.ManyToManyField(
        Stage, through="RunStage", related_name="runs"
    )
    created = models.DateTimeField(auto_now_add=True)
    finished = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["Run"].as_manager()

    class Meta:
        ordering: ClassVar = ["-created"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(status__in=Status.values), name="run_status_is_known"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Return the run's page."""
        return reverse("run", args=[self.pk])


class RunStage(models.Model):
    """The place of a stage in a run's graph. `reused`: it existed before the run asked for it."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="run_stages")
    stage = models.ForeignKey(Stage, on_delete=models.PROTECT, related_name="run_stages")
    key = models.CharField(max_length=32)
    order = models.PositiveIntegerField()
    reused = models.BooleanField(default=False)

    class Meta:
        ordering: ClassVar = ["order"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["run", "key"], name="run_stage_key_is_unique")]

    def __str__(self) -> str:
        return f"{self.run} {self.key}"


class Pair(models.Model):
    """One preference triplet of a `preference_pairs` stage, for people to look at."""

    stage = models.ForeignKey(Stage, on_delete=models.CASCADE, related_name="pairs")
    index = models.PositiveIntegerField()
    prompt_id = models.CharField(max_length=16)
    prompt = models.TextField()
    chosen = models.TextField()
    rejected = models.TextField()
    chosen_index = models.IntegerField(null=True, blank=True)  # sample index; null for human pairs
    rejected_index = models.IntegerField(null=True, blank=True)
    probability = models.FloatField(null=True, blank=True)  # ρ(chosen beats rejected); null for human pairs
    row_id = models.BigIntegerField(null=True, blank=True)  # dataset row of a human pair

    class Meta:
        ordering: ClassVar = ["stage_id", "index"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["stage", "index"], name="pair_index_is_unique")]
        indexes: ClassVar = [models.Index(fields=["stage", "prompt_id"])]

    def __str__(self) -> str:
        return f"{self.stage} pair {self.index}"


class UnusedArtifact(models.Model):
    """An artifact whose owner was deleted: its files go once nothing has referred to them for a while."""

    digest = models.CharField(max_length=64, unique=True)
    noted = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.digest[:8]


class Worker(models.Model):
    """A worker process that has been seen, for the Home page."""

    name = models.CharField(max_length=120, unique=True)
    queue = models.CharField(max_length=8)
    slots = models.PositiveSmallIntegerField(default=1)  # pieces of work it does at once
    seen = models.DateTimeField()
    device = models.CharField(max_length=120, blank=True)

    def __str__(self) -> str:
        return self.name
