"""The curves of a run: one small chart for each value that its trainings report."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, F, Q, Window
from django.db.models.functions import Mod, RowNumber

from webapp.runs.models import MetricPoint, RunStage

MOST_POINTS = 500
_FEW_POINTS = 20  # a line through so few shows where they are

# The charts in the order of the page: the values that each shows, by their names in a stage's reports.
_CHARTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("loss", {"loss": "loss"}),
    ("reward margin", {"margin": "margin"}),
    ("accuracy on the batch", {"accuracy": "accuracy"}),
    ("proxy win rate on validation prompts", {"proxy_win_rate": "proxy win rate"}),
    ("log-ratio to π_sft", {"chosen_log_ratio": "chosen", "rejected_log_ratio": "rejected"}),
    ("log-probability", {"chosen_log_prob": "chosen", "rejected_log_prob": "rejected"}),
    ("gradient norm", {"gradient_norm": "gradient norm"}),
    ("probability outside A and B", {"outside_mass": "outside"}),
)
_SHARES = frozenset({"accuracy", "proxy_win_rate", "outside_mass"})
_FIRST = frozenset({"loss", "margin", "accuracy", "proxy_win_rate"})  # the others are folded
_COLOURS = {"chosen": "--chosen", "rejected": "--rejected"}
_ALONG = "checkpoint_figures"
_STAGES = ("policy_fitting", "checkpoint_selection", _ALONG, "reward_training", "gold_reward_training", "sft")
_SHOWN_TITLES = {
    "policy_fitting": "policy fitting",
    "checkpoint_selection": "checkpoints",
    _ALONG: "reward hacking",
    "reward_training": "reward model",
    "gold_reward_training": "gold reward model",
    "sft": "SFT",
}


@dataclass(frozen=True)
class Curve:
    """One chart: `id` names it on the page, `last` is the latest value of its first line."""

    id: str
    stage: str
    label: str
    figure: dict[str, Any]
    last: float
    is_share: bool
    is_first: bool


def run_curves(run_id: int, colour: str) -> list[Curve]:
    """Return the curves of a run, the policy's first, in two queries."""
    stages = RunStage.objects.filter(run=run_id, key__in=_STAGES).values_list("stage", "key", "stage__summary")
    keys = {stage: key for stage, key, _ in stages}
    summaries = {key: summary for _, key, summary in stages}
    found: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for stage, step, values in thinned(keys).values_list("stage", "step", "values"):
        found.setdefault(keys[stage], []).append((step, values))
    return [
        curve
        for key in _STAGES
        for curve in (*_calibration(key, summaries.get(key, {})), *_stage_curves(key, found.get(key, []), colour))
    ]


def thinned(stages: Iterable[int]) -> Any:
    """Return at most `MOST_POINTS` evenly spaced points of each stage, the last one always."""
    own: dict[str, Any] = {"partition_by": [F("stage")]}
    numbered = MetricPoint.objects.filter(stage__in=stages).annotate(
        row=Window(RowNumber(), order_by=F("step").asc(), **own), rows=Window(Count("pk"), **own)
    )
    spaced = numbered.annotate(rest=Mod(F("row") - 1, (F("rows") + MOST_POINTS - 2) / (MOST_POINTS - 1)))
    return spaced.filter(Q(rest=0) | Q(row=F("rows"))).order_by("stage", "step")


def _calibration(key: str, summary: Mapping[str, Any]) -> list[Curve]:
    """Return the calibration curve of a reward model that was measured on held-out pairs, as a list of one or none."""
    bins = summary.get("calibration")
    if not bins:
        return []
    x, rates = [item["confidence"] for item in bins], [item["accuracy"] for item in bins]
    points = {
        "x": [float(f"{value:.5g}") for value in x],
        "y": [rate["value"] for rate in rates],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [rate["high"] - rate["value"] for rate in rates],
            "arrayminus": [rate["value"] - rate["low"] for rate in rates],
            "thickness": 1,
            "width": 2,
        },
        "customdata": [rate["n"] for rate in rates],
        "name": "measured",
        "mode": "lines+markers",
        "line": {"color": "var(--sft)", "width": 2},
        "hovertemplate": "confidence %{x:.1%}<br>right %{y:.1%} of %{customdata} pairs<extra></extra>",
    }
    ideal = {
        "x": [0.5, 1],
        "y": [0.5, 1],
        "name": "calibrated",
        "mode": "lines",
        "line": {"color": "var(--muted)", "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    layout = _layout(is_share=True, legend=True)
    layout["xaxis"] = {
        "title": {"text": "confidence", "standoff": 4},
        "range": [0.49, 1.01],
        "tickformat": ".0%",
        "nticks": 6,
    }
    figure = {"data": [points, ideal], "layout": layout}
    label = "calibration: right on held-out pairs"
    return [Curve(f"calibration-{key}", _SHOWN_TITLES[key], label, figure, summary["accuracy"]["value"], True, True)]


def _stage_curves(key: str, points: list[tuple[int, dict[str, float]]], colour: str) -> list[Curve]:
    if key == _ALONG:
        return [_along_checkpoints(points, colour)] if any("kl" in values for _, values in points) else []
    names = {name for _, values in points for name in values}
    charted = {name for _, lines in _CHARTS for name in lines}
    own = tuple((name.replace("_", " "), {name: name}) for name in sorted(names - charted))
    colour = colour if key in _STAGES[:2] else "--sft"
    return [
        _curve(key, label, {name: word for name, word in lines.items() if name in names}, points, colour)
        for label, lines in (*_CHARTS, *own)
        if names & lines.keys()
    ]


def _along_checkpoints(points: list[tuple[int, dict[str, float]]], colour: str) -> Curve:
    """Return proxy and gold win rate (left) and the divergence from π_sft (right) along the checkpoints, in one chart.

    A proxy that rises while gold falls and KL grows is a policy that exploits its reward model.
    """
    lines = {
        "proxy_along": ("proxy win rate", colour),
        "gold_along": ("gold win rate", "--amber"),
        "kl": ("KL", "--muted"),
    }
    traces = [
        _trace(name, word, points, tone, is_share=name != "kl")
        for name, (word, tone) in lines.items()
        if any(name in values for _, values in points)
    ]
    traces[-1] |= {"yaxis": "y2", "line": {"color": "var(--muted)", "width": 2, "dash": "dot"}}
    layout = _layout(is_share=True, legend=True)
    layout["margin"] = {**layout["margin"], "r": 48}
    layout["yaxis2"] = {
        "overlaying": "y", "side": "right", "rangemode": "tozero", "nticks": 5, "showgrid": False,
        "title": {"text": "KL, nats", "standoff": 2},
    }  # fmt: skip
    figure = {"data": traces, "layout": layout}
    label = "proxy, gold and KL from π_sft along checkpoints, validation prompts"
    return Curve(
        "curve-hacking", _SHOWN_TITLES[_ALONG], label, figure, traces[-1]["y"][-1], is_share=False, is_first=True
    )


def _curve(
    key: str, label: str, lines: Mapping[str, str], points: list[tuple[int, dict[str, float]]], colour: str
) -> Curve:
    first = next(iter(lines))
    is_share = first in _SHARES
    traces = [_trace(name, word, points, colour, is_share=is_share) for name, word in lines.items()]
    figure = {"data": traces, "layout": _layout(is_share=is_share, legend=len(traces) > 1)}
    last = traces[0]["y"][-1]
    return Curve(f"curve-{key}-{first}", _SHOWN_TITLES[key], label, figure, last, is_share, first in _FIRST)


def _trace(
    name: str, word: str, points: list[tuple[int, dict[str, float]]], colour: str, *, is_share: bool
) -> dict[str, Any]:
    drawn = [(step, values[name]) for step, values in points if values.get(name) is not None]
    return {
        "x": [step for step, _ in drawn],
        "y": [float(f"{value:.5g}") for _, value in drawn],  # as many digits as anybody can see
        "name": word,
        "mode": "lines+markers" if len(drawn) <= _FEW_POINTS else "lines",
        "line": {"color": f"var({_COLOURS.get(word, colour)})", "width": 2},
        "hovertemplate": f"step %{{x}}<br>{word} %{{y:{'.1%' if is_share else '.4g'}}}<extra></extra>",
    }


def _layout(*, is_share: bool, legend: bool) -> dict[str, Any]:
    return {
        "height": 190,
        "margin": {"l": 44, "r": 8, "t": 22 if legend else 6, "b": 34},
        "showlegend": legend,
        "xaxis": {"title": {"text": "step", "standoff": 4}, "rangemode": "tozero", "nticks": 6},
        "yaxis": {"nticks": 5, "tickformat": ".0%" if is_share else ".3~g"},
    }
