"""What truncation would do to the data of a run: counts, histograms and one tokenised example, from its profile."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rso_core.errors import UserError
from webapp.runs.artifacts import store
from webapp.runs.models import Stage, Status

_PROFILE = "profile.json"
_DATASETS = {"preferences": "preference pairs", "sft": "SFT targets", "prompts": "prompts"}
_COLOURS = {"prompt": "--sft", "target": "--rso", "chosen": "--chosen", "rejected": "--rejected"}
# What the limits do to rows, and the sentence for it.
_FATES = {
    "truncated_prompts": "prompts are cut from the left inside their body",
    "excluded_rows": "rows have a response longer than the limit: never cut, but left out where the policy learns from them (SFT, direct pairs)",
    "reward_truncated": "contexts are cut for the reward model",
    "reward_excluded": "pairs are left out of reward training: both responses do not fit",
    "escaped_markers": "template markers inside texts are escaped",
}
_SHARE_TO_WARN = 0.05


@dataclass(frozen=True)
class Fate:
    """How many rows of a dataset a limit touches."""

    count: int
    words: str
    share: float

    @property
    def is_large(self) -> bool:
        """Return whether so many rows are touched that the limit should be looked at."""
        return self.share > _SHARE_TO_WARN


@dataclass(frozen=True)
class DatasetLengths:
    """The lengths of one dataset in tokens."""

    key: str
    title: str
    rows: int
    fates: list[Fate]
    columns: list[tuple[str, Mapping[str, Any]]]
    figure: dict[str, Any]


@dataclass(frozen=True)
class ProfileView:
    """A length profile as the page shows it; the parts after `stage` are empty until it is done."""

    stage: Stage
    datasets: list[DatasetLengths] = field(default_factory=list)
    examples: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    limits: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""

    @property
    def is_done(self) -> bool:
        """Return whether the counts are there."""
        return self.stage.status == Status.DONE


def profile_view(stage: Stage) -> ProfileView:
    """Return a length profile as far as it has been made."""
    if stage.status != Status.DONE:
        return ProfileView(stage)
    profile = _read(stage.digest)
    example = profile.get("example", {})
    named = (("policy", "What the policy reads and learns to write"), ("reward", "What the reward model reads"))
    return ProfileView(
        stage,
        [_lengths(name, counted, profile["limits"]) for name, counted in profile["datasets"].items()],
        [(title, example[name]) for name, title in named if example.get(name)],
        profile["limits"],
        profile["template"],
    )


@lru_cache(maxsize=32)
def _read(digest: str) -> dict[str, Any]:
    try:
        profile: dict[str, Any] = json.loads(store().files(digest, _PROFILE)[0].read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"the length profile {digest[:8]} has lost its file in the artifact store; restore the store from its backup"
        raise UserError(message) from error
    return profile


def _lengths(name: str, counted: Mapping[str, Any], limits: Mapping[str, Any]) -> DatasetLengths:
    rows = counted["rows"]
    fates = [Fate(counted.get(key, 0), words, counted.get(key, 0) / max(1, rows)) for key, words in _FATES.items()]
    columns = list(counted["histograms"].items())
    figure = _figure(columns, limits)
    return DatasetLengths(name, _DATASETS[name], rows, [fate for fate in fates if fate.count], columns, figure)


def _figure(columns: list[tuple[str, Mapping[str, Any]]], limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the histograms of a dataset's columns in one figure, with the limits as lines."""
    data = [
        {
            "type": "scatter", "mode": "lines", "line": {"shape": "hvh", "width": 1.5, "color": f"var({_COLOURS[name]})"},
            "fill": "tozeroy", "opacity": 0.8, "name": name, "x": histogram["edges"][:-1], "y": histogram["counts"],
            "hovertemplate": f"{name} from %{{x}} tokens<br>%{{y:,}} rows<extra></extra>",
        }
        for name, histogram in columns
    ]  # fmt: skip
    most = max((histogram["max"] or 0 for _, histogram in columns), default=0)
    lines = [(limits["max_prompt_tokens"], "prompt limit"), (limits["max_response_tokens"], "response limit")]
    shown = [(at, words) for at, words in lines if at <= most * 1.6]
    layout = {
        "height": 230, "margin": {"t": 34, "r": 10, "b": 40, "l": 48},
        "xaxis": {"title": {"text": "tokens"}, "rangemode": "tozero"}, "yaxis": {"title": {"text": "rows"}},
        "shapes": [
            {
                "type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1,
                "line": {"color": "var(--amber)", "width": 1.5, "dash": "dot"},
            }
            for at, _ in shown
        ],
        "annotations": [
            {
                "x": at, "y": 1, "yref": "paper", "text": words, "showarrow": False, "xanchor": "right", "yanchor": "top",
                "font": {"size": 11, "color": "var(--amber)"},
            }
            for at, words in shown
        ],
    }  # fmt: skip
    return {"data": data, "layout": layout}
