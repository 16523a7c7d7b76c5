"""What the page of results shows, put together from the figures: Table 4, who wins, charts, agreement, totals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rso_core.human_eval import CLEAR
from webapp.human_eval.models import Campaign
from webapp.human_eval.results import Figures
from webapp.human_eval.results_charts import chosen_chart, histogram_chart, position_chart, quality_chart
from webapp.human_eval.results_systems import ShownSystem, measures_of
from webapp.human_eval.results_totals import Totals

Rate = Mapping[str, Any]  # {value, low, high, n}


@dataclass(frozen=True)
class Row:
    """A row of Table 4: a system, or what was chosen instead of one."""

    name: str
    system: ShownSystem | None
    chosen: Rate
    vote_share: Rate | None
    quality: Rate | None = None
    vote_share_two_way: Rate | None = None  # over raters too
    quality_two_way: Rate | None = None
    rates: Sequence[tuple[Rate | None, str]] = ()  # of other measures, with why one says nothing


@dataclass(frozen=True)
class Difference:
    """Two systems in one measure; `ahead` is the better one where that is clear."""

    first: ShownSystem
    second: ShownSystem
    measure: str
    difference: Rate
    p: float
    p_holm: float
    verdict: str
    ahead: ShownSystem | None
    detectable: float | None
    two_way: Rate | None

    @property
    def hangs_on_raters(self) -> bool:
        """Return whether a clear difference is not one when raters are drawn as well as prompts."""
        return self.ahead is not None and self.two_way is not None and self.two_way["low"] <= 0 <= self.two_way["high"]


@dataclass(frozen=True)
class SideBySide:
    """A two-way campaign: how often the system won against the reference, lost, tied, or nothing had a majority."""

    system: ShownSystem
    reference: ShownSystem
    win: Rate
    loss: Rate
    tie: Rate
    no_majority: Rate
    win_rate: Rate


@dataclass(frozen=True)
class ResultsPage:
    """Everything in the polled part of the page."""

    systems: list[ShownSystem]
    figures: Figures
    totals: Totals
    measures: list[tuple[str, str]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    by_votes: list[Difference] = field(default_factory=list)
    by_quality: list[Difference] = field(default_factory=list)
    headline: str = ""
    is_clear: bool = False
    side_by_side: SideBySide | None = None
    charts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def values(self) -> Mapping[str, Any]:
        """Return the figures as they were computed."""
        return self.figures.values

    @property
    def agreements(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """Return each question with the level it is measured on and its agreement."""
        return [
            ("Quality", "ordinal", self.values["quality_agreement"]),
            ("Choice", "nominal", self.values["choice_agreement"]),
        ]

    @property
    def flagged_raters(self) -> int:
        """Return how many raters look odd in some way."""
        return sum(bool(rater["flags"]) for rater in self.values.get("raters", []))


def results_page(campaign: Campaign, systems: list[ShownSystem], figures: Figures, totals: Totals) -> ResultsPage:
    """Return what the page shows; while no answer counts, only the systems and the totals."""
    if not figures.values:
        return ResultsPage(systems, figures, totals)
    found = figures.values["results"]
    differences = [_difference(pair, systems) for pair in found["pairs"]]
    by_votes = [item for item in differences if item.measure == "vote_share"]
    headline, is_clear = _headline(systems, found, by_votes)
    return ResultsPage(
        systems, figures, totals, measures_of(systems), _rows(systems, found), by_votes,
        [item for item in differences if item.measure == "quality"], headline, is_clear,
        _side_by_side(systems, found), _charts(campaign, systems, figures.values),
    )  # fmt: skip


def _rows(systems: Sequence[ShownSystem], found: Mapping[str, Any]) -> list[Row]:
    keys = [key for key, _ in measures_of(systems)]
    rows = [
        Row(
            system.label, system, **found["systems"][system.index],
            rates=[(system.rates.get(key), system.doubts.get(key, "")) for key in keys],
        )
        for system in systems
    ]  # fmt: skip
    same = Row("About the same", None, found["same"], found["same_share"])
    return [*rows, same, Row("No majority", None, found["no_majority"], None)]


def _difference(pair: Mapping[str, Any], systems: Sequence[ShownSystem]) -> Difference:
    by_index = {system.index: system for system in systems}
    first, second = by_index[pair["first"]], by_index[pair["second"]]
    ahead = None
    if pair["verdict"] == CLEAR:
        ahead = first if pair["difference"]["value"] > 0 else second
    kept = ("measure", "difference", "p", "p_holm", "verdict", "detectable", "two_way")
    return Difference(first, second, ahead=ahead, **{name: pair[name] for name in kept})


def _headline(
    systems: Sequence[ShownSystem], found: Mapping[str, Any], differences: Sequence[Difference]
) -> tuple[str, bool]:
    """Return in one sentence who wins, by vote share, and whether anything is clear."""
    best = max(systems, key=lambda system: found["systems"][system.index]["vote_share"]["value"])
    others = [
        (item.second if item.first.index == best.index else item.first, item.ahead)
        for item in differences
        if best.index in {item.first.index, item.second.index}
    ]
    beaten = [other.label for other, ahead in others if ahead is not None]
    unclear = [other.label for other, ahead in others if ahead is None]
    if not beaten:
        return f"{_listed([system.label for system in systems])} are not distinguishable at this N.", False
    if not unclear:
        return f"{best.label} is preferred, clearly, to {_listed(beaten)}.", True
    return (
        f"{best.label} is preferred, clearly, to {_listed(beaten)}; it is not distinguishable from {_listed(unclear)} at this N.",
        True,
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _side_by_side(systems: Sequence[ShownSystem], found: Mapping[str, Any]) -> SideBySide | None:
    values = found["side_by_side"]
    if values is None:
        return None
    first, second = systems
    if not first.is_reference:
        return SideBySide(first, second, **values)
    turned = values["win_rate"]
    ends = {"value": 1 - turned["value"], "low": 1 - turned["high"], "high": 1 - turned["low"], "n": turned["n"]}
    return SideBySide(
        second, first, win=values["loss"], loss=values["win"], tie=values["tie"], no_majority=values["no_majority"],
        win_rate=ends,
    )  # fmt: skip


def _charts(
    campaign: Campaign, systems: Sequence[ShownSystem], values: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    scale = (campaign.scale_min, campaign.scale_max)
    charts: dict[str, Mapping[str, Any]] = {
        "chosen": chosen_chart(systems, values["results"]),
        "quality": quality_chart(systems, values["results"], scale),
        "histogram": histogram_chart(systems, values["histogram"], scale),
    }
    if values["position"]["chosen"]:
        charts["position"] = position_chart(values["position"])
    return charts
