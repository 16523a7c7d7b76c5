"""The figure of a study: a line over the values of one setting, or bars grouped by arm, with 95 % intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from rso_core.studies import shown
from rso_core.study_bundle import Bundle, metrics_of
from rso_core.study_results import METRIC_TITLES, SFT

_COLOURS = {"proxy": "--rso", "gold": "--dpo", "auto_sxs": "--slic"}


def study_chart(bundle: Bundle) -> dict[str, Any] | None:
    """Return the figure of a study; None while nothing has been measured."""
    metrics = metrics_of(bundle)
    if not metrics:
        return None
    axis = _swept(bundle)
    rows = bundle["rows"] if axis else [{"arm": SFT, "figures": bundle["sft"]}, *bundle["rows"]]
    names = [shown(row["settings"][axis]) if axis else row["arm"] for row in rows]
    traces = [_trace(metric, names, rows, is_line=bool(axis)) for metric in metrics]
    title = axis.rsplit(".", 1)[-1] if axis else ""
    return {
        "data": traces,
        "layout": {
            "height": 320, "barmode": "group", "bargap": 0.25, "showlegend": len(traces) > 1,
            "xaxis": {"type": "category", "title": {"text": title}},
            "yaxis": {"tickformat": ".0%", "title": {"text": "won against the SFT target"}},
        },
        "table": {"heads": ["", *_heads(metrics)], "rows": [_values(name, row, metrics) for name, row in zip(names, rows, strict=True)]},
    }  # fmt: skip


def _swept(bundle: Bundle) -> str:
    """Return the one setting that a study sweeps over numbers, if it is such a study."""
    grid = bundle["study"]["grid"]
    if len(grid) != 1 or bundle["study"]["arms"]:
        return ""
    (path, values), *_ = grid.items()
    return path if all(isinstance(value, int | float) or value == "inf" for value in values) else ""


def _trace(metric: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]], *, is_line: bool) -> dict[str, Any]:
    known = [(name, row["figures"][metric]) for name, row in zip(names, rows, strict=True) if metric in row["figures"]]
    colour = f"var({_COLOURS[metric]})"
    kind = {"type": "scatter", "mode": "lines+markers", "line": {"color": colour}} if is_line else {"type": "bar"}
    return {
        **kind,
        "name": METRIC_TITLES[metric].removesuffix(" %"),
        "x": [name for name, _ in known],
        "y": [figure["value"] for _, figure in known],
        "marker": {"color": colour},
        "error_y": {
            "type": "data", "symmetric": False, "color": "var(--text)", "thickness": 1.5,
            "array": [figure["high"] - figure["value"] for _, figure in known],
            "arrayminus": [figure["value"] - figure["low"] for _, figure in known],
        },
        "hovertemplate": "%{x}<br>%{y:.1%}<extra></extra>",
    }  # fmt: skip


def _heads(metrics: Sequence[str]) -> list[str]:
    return [word for metric in metrics for word in (METRIC_TITLES[metric], "95 % from", "to")]


def _values(name: str, row: Mapping[str, Any], metrics: Sequence[str]) -> list[Any]:
    figures = [row["figures"].get(metric) for metric in metrics]
    return [name, *(figure and figure[end] for figure in figures for end in ("value", "low", "high"))]
