"""Token lengths of a dataset under one model's tokenizer: asked of a worker, shown as histograms."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from django.db.models import QuerySet

from rso_core.config import RewardConfig
from rso_core.plan import PlannedStage, fingerprint_of
from webapp.accounts.models import User
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


def lengths_context(user: User, dataset: Dataset, wanted: str) -> dict[str, Any]:
    """Return the profile with the key `wanted`, or else the newest, and its histograms once it is done.

    What it says of other datasets, or the name of a model that this person may not see, stays out.
    """
    profiles = profiles_of(dataset)
    chosen = profiles.filter(pk=int(wanted)).first() if wanted.isdecimal() and len(wanted) < 10 else None  # noqa: PLR2004 - a key
    profile = chosen or profiles.first()
    if profile is None:
        return {"profile": None}
    measured = (profile.summary.get("datasets") or {}).get(_INPUTS[dataset.kind])
    return {
        "profile": profile,
        "profile_model": RegisteredModel.objects.visible_to(user).filter(digest=profile.input_digests["base"]).first(),
        "measured": measured,
        "histograms": _histograms(measured, profile.config) if measured else [],
    }


def _histograms(measured: Mapping[str, Any], limits: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one histogram for the prompts and one for the responses, each with the limit as a line."""
    found = measured["histograms"]
    responses = {name: item for name, item in found.items() if name != "prompt"}
    charts = [
        _histogram("prompt", {"prompt": found["prompt"]}, limits["max_prompt_tokens"], "cut from the left beyond"),
        _histogram("response", responses, limits["max_response_tokens"], "left out beyond"),
    ]
    return [chart for chart in charts if chart["parts"]]


def _histogram(title: str, parts: Mapping[str, Any], limit: int, beyond: str) -> dict[str, Any]:
    filled = {name: item for name, item in parts.items() if item["total"]}
    longest = max((item["max"] for item in filled.values()), default=0)
    texts = [
        f"{name}: median {item['median']}, 95 % up to {item['p95']}, longest {item['max']}"
        for name, item in filled.items()
    ]
    return {
        "key": f"lengths-{title}",
        "title": f"{title} tokens",
        "parts": filled,
        "limit": limit,
        "beyond": beyond,
        "label": f"Histogram of {title} lengths in tokens. {'; '.join(texts)}. Limit {limit}.",
        "figure": {
            "table": _table(title, filled),
            "data": [_bars(name, item) for name, item in filled.items()],
            "layout": {
                "barmode": "overlay",
                "xaxis": {"title": {"text": f"{title} tokens"}, "rangemode": "tozero"},
                "yaxis": {"title": {"text": "rows"}},
                "showlegend": len(filled) > 1,
                "shapes": [_limit_line(limit)] if limit <= longest else [],
            },
        },
    }


def _bars(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    edges = item["edges"]
    width = edges[1] - edges[0]
    colour = {"rejected": "var(--slic)"}.get(name, "var(--rso)")
    return {
        "type": "bar",
        "name": name,
        "x": [edge + width / 2 for edge in edges[:-1]],
        "y": item["counts"],
        "width": width,
        "customdata": [f"{low} to {high - 1}" for low, high in pairwise(edges)],
        "hovertemplate": "%{customdata} tokens: %{y:,} rows<extra>%{fullData.name}</extra>",
        "marker": {"color": colour, "opacity": 0.65},
    }


def _table(title: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bins that hold something, with the rows in each."""
    counts: dict[tuple[int, int], dict[str, int]] = {}
    for name, item in parts.items():
        for low, high, count in zip(item["edges"], item["edges"][1:], item["counts"], strict=False):
            if count:
                counts.setdefault((low, high - 1), {})[name] = count
    rows = [
        [str(low) if low == high else f"{low} to {high}", *(found.get(name, 0) for name in parts)]
        for (low, high), found in sorted(counts.items())
    ]
    return {"heads": [f"{title} tokens", *parts], "rows": rows}


def _limit_line(limit: int) -> dict[str, Any]:
    line = {"color": "var(--failed)", "width": 2, "dash": "dash"}
    return {"type": "line", "x0": limit, "x1": limit, "yref": "paper", "y0": 0, "y1": 1, "line": line}
