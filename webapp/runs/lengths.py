"""Token lengths of a dataset under one model's tokenizer: asked of a worker, shown as histograms."""

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet

from rso_core.config import RewardConfig
from rso_core.plan import PlannedStage, fingerprint_of
from webapp.runs.models import Dataset, RegisteredModel, Stage
from webapp.runs.services import ensure_stages

# The input of a length profile that a dataset of this kind is.
_INPUTS: Mapping[str, str] = {"preference": "preferences", "sft": "sft", "prompts": "prompts"}
_SPLIT = {"seed": 0, "validation_fraction": 0.1, "test_fraction": 0.1}


def request_lengths(
    *, dataset: Dataset, model: RegisteredModel, max_prompt_tokens: int, max_response_tokens: int
) -> Stage:
    """Return the length profile of one dataset under one model, asking a worker for it if nobody has."""
    config = {
        "task": dataset.task,
        "prompt_template": "auto",
        "max_prompt_tokens": max_prompt_tokens,
        "max_response_tokens": max_response_tokens,
        "max_length": RewardConfig().max_length,
        "split": _SPLIT,
    }
    digests = {"base": model.digest, _INPUTS[dataset.kind]: dataset.digest}
    fingerprint = fingerprint_of("length_profile", config, digests)
    planned = PlannedStage("length_profile", "length_profile", config, {}, digests, fingerprint)
    return ensure_stages([planned])["length_profile"]


def profiles_of(dataset: Dataset) -> QuerySet[Stage]:
    """Return the length profiles that somebody has asked for of this dataset, the newest first."""
    digest = {f"input_digests__{_INPUTS[dataset.kind]}": dataset.digest}
    return Stage.objects.filter(kind="length_profile", **digest).prefetch_related("shards").order_by("-created", "-pk")


def lengths_context(dataset: Dataset, wanted: str) -> dict[str, Any]:
    """Return the profile with the key `wanted`, or else the newest, and its histograms once it is done."""
    profiles = profiles_of(dataset)
    chosen = profiles.filter(pk=int(wanted)).first() if wanted.isdecimal() and len(wanted) < 10 else None  # noqa: PLR2004 - a key
    profile = chosen or profiles.first()
    if profile is None:
        return {"profile": None}
    base = profile.input_digests["base"]
    return {
        "profile": profile,
        "profile_model": RegisteredModel.objects.filter(digest=base).first(),
    }
