"""The charts of the results: bars with intervals, the histogram of ratings, and what the place on the screen did."""

from collections.abc import Mapping, Sequence
from typing import Any

from webapp.human_eval.results_systems import ShownSystem

SAME, NO_MAJORITY = "same", "no majority"
_GREY, _FAINT = "--line-strong", "--line"
_ROOM = 0.2  # beyond the ends of the scale, so that a point there is whole


def chosen_chart(systems: Sequence[ShownSystem], results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shares of items in which each system, "same" or nothing is chosen, with intervals."""
    names = [*(system.label for system in systems), SAME, NO_MAJORITY]
    colours = [*(system.colour for system in systems), _GREY, _FAINT]
    rates = [*(results["systems"][system.index]["chosen"] for system in systems), results["same"]]
    rates.append(results["no_majority"])
    layout = {"yaxis": {"tickformat": ".0%", "rangemode": "tozero", "title": {"text": "chosen as preferred"}}}
    return _bars(names, colours, rates, layout, ":.1%")


def quality_chart(systems: Sequence[ShownSystem], results: Mapping[str, Any], scale: tuple[int, int]) -> dict[str, Any]:
    """Return the mean quality of each system with intervals, on the whole scale."""
    rates = [results["systems"][system.index]["quality"] for system in systems]
    layout = {"yaxis": {"range": [scale[0] - _ROOM, scale[1] + _ROOM], "title": {"text": "mean quality"}, "dtick": 1}}
    names, colours = [system.label for system in systems], [system.colour for system in systems]
    figure = _bars(names, colours, rates, layout, ":.2f")
    # A bar from 0 would show the length of the scale, not the differences; points with intervals do.
    trace = figure["data"][0]
    trace |= {"type": "scatter", "mode": "markers", "marker": {**trace["marker"], "size": 10}}
    trace["error_y"] |= {"thickness": 2, "width": 8}
    return figure


def _bars(
    names: Sequence[str], colours: Sequence[str], rates: Sequence[Mapping[str, Any]], layout: Mapping[str, Any], form: str
) -> dict[str, Any]:  # fmt: skip
    values = [rate["value"] for rate in rates]
    trace = {
        "type": "bar", "x": list(names), "y": values, "marker": {"color": [f"var({name})" for name in colours]},
        "error_y": {
            "type": "data", "symmetric": False, "array": [rate["high"] - rate["value"] for rate in rates],
            "arrayminus": [rate["value"] - rate["low"] for rate in rates], "color": "var(--text)", "thickness": 1.5,
        },
        "hovertemplate": f"%{{x}}<br>%{{y{form}}}<extra></extra>",
    }  # fmt: skip
    rows = [[name, rate["value"], rate["low"], rate["high"]] for name, rate in zip(names, rates, strict=True)]
    return {
        "data": [trace],
        "layout": {"height": 250, "showlegend": False, "bargap": 0.35, "xaxis": {"type": "category"}, **layout},
        "table": {"heads": ["", "value", "95 % from", "to"], "rows": rows},
    }


def histogram_chart(
    systems: Sequence[ShownSystem], histogram: Sequence[Sequence[int]], scale: tuple[int, int]
) -> dict[str, Any]:
    """Return how often each system got each score, as shares of its ratings."""
    scores = [str(score) for score in range(scale[0], scale[1] + 1)]
    data = []
    for system in systems:
        counts = histogram[system.index]
        data.append({
            "type": "bar", "name": system.label, "x": scores, "y": [n / max(1, sum(counts)) for n in counts],
            "customdata": counts, "marker": {"color": f"var({system.colour})"},
            "hovertemplate": f"{system.label}<br>quality %{{x}}<br>%{{y:.1%}} (%{{customdata}} ratings)<extra></extra>",
        })  # fmt: skip
    layout = {
        "height": 250, "barmode": "group", "bargap": 0.2, "showlegend": True,
        "xaxis": {"type": "category", "title": {"text": "quality given"}},
        "yaxis": {"tickformat": ".0%", "title": {"text": "share of ratings"}},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def position_chart(position: Mapping[str, Any]) -> dict[str, Any]:
    """Return the share of choices that went to each place on the screen, beside what equal shares would be."""
    places = _places(len(position["chosen"]))
    fair = 1 / len(places)
    data = [
        {
            "type": "bar", "name": "chosen", "x": places, "y": position["chosen"], "marker": {"color": "var(--accent)"},
            "hovertemplate": "%{x}<br>%{y:.1%} of the choices<extra></extra>",
        },
        {
            "mode": "lines", "name": "without bias", "x": places, "y": [fair] * len(places), "hoverinfo": "skip",
            "line": {"color": "var(--text)", "dash": "dot", "width": 1},
        },
    ]  # fmt: skip
    layout = {
        "height": 230, "bargap": 0.45, "showlegend": True, "xaxis": {"type": "category"},
        "yaxis": {"tickformat": ".0%", "rangemode": "tozero", "title": {"text": "share of choices"}},
    }  # fmt: skip
    rows = [[*row] for row in zip(places, position["chosen"], position["quality"], strict=True)]
    return {"data": data, "layout": layout, "table": {"heads": ["place", "chosen", "mean quality"], "rows": rows}}


def _places(count: int) -> list[str]:
    return ["left", "middle", "right"] if count == 3 else ["left", "right"]  # noqa: PLR2004 - the two layouts there are
