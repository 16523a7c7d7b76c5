"""A study and its cells. What a cell does is a run of its own; the study says which runs there are to be."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.urls import reverse

from rso_core import studies
from webapp.runs.models import OwnedQuerySet, Run


class Study(models.Model):
    """A base recipe, a grid over its settings, and seeds."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="studies")
    shared = models.BooleanField(default=False)
    name = models.CharField(max_length=60)
    preset = models.CharField(max_length=40, blank=True)
    definition = models.TextField()  # JSON as text: the order of a grid's settings is part of its arms' names
    paused = models.BooleanField(default=False)
    launch_token = models.UUIDField(null=True, blank=True, unique=True, editable=False)  # of the form: one study each
    created = models.DateTimeField(auto_now_add=True)

    objects = OwnedQuerySet["Study"].as_manager()

    class Meta:
        ordering: ClassVar = ["-created"]
        verbose_name_plural = "studies"

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Return the study's page."""
        return reverse("study", args=[self.pk])

    @property
    def plan(self) -> studies.Study:
        """Return what the study does."""
        return _plan(self.definition)

    @property
    def planned_cells(self) -> tuple[studies.Cell, ...]:
        """Return the cells of the plan with the recipes of their runs."""
        return _planned_cells(self.definition)


# Checking the recipes of a table's cells takes a second, and every poll of a study's page needs them.
@lru_cache(maxsize=64)
def _plan(definition: str) -> studies.Study:
    return studies.Study.model_validate_json(definition)


@lru_cache(maxsize=64)
def _planned_cells(definition: str) -> tuple[studies.Cell, ...]:
    return tuple(studies.cells(_plan(definition)))


class StudyCell(models.Model):
    """An arm at a seed. Its run is there once the data it needs has been imported; `message` says why it cannot be."""

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="cells")
    arm = models.CharField(max_length=60)
    seed = models.PositiveIntegerField()
    order = models.PositiveIntegerField()
    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.PROTECT, related_name="study_cells")
    message = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar = ["order"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["study", "arm", "seed"], name="study_cell_is_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.study} {self.arm} seed {self.seed}"
