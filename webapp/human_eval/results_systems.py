"""The compared systems as the results show them: name, colour, and what other measures say of the runs behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.accounts.models import User
from webapp.human_eval.models import Campaign, System
from webapp.runs.models import Run, RunStage, Status
from webapp.runs.run_results import DOUBT, is_doubtful, system_of
from webapp.runs.sharing import may_change

MEASURES = {"proxy": "Proxy", "gold": "Gold", "auto_sxs": "AutoSxS"}
_PALETTE = ("--rso", "--dpo", "--slic", "--raft", "--rest", "--coin")
_OWN = {System.Kind.SFT: "--sft", System.Kind.TARGET: "--rest"}


@dataclass(frozen=True)
class ShownSystem:
    """A system with its colour on every page, its run where this person may see it, and that run's win rates."""

    index: int
    label: str
    kind: str
    colour: str
    is_reference: bool
    run: Run | None
    hidden_run: bool  # there is one, which this person may not see
    rates: Mapping[str, Any]  # by the keys of MEASURES; {value, low, high, n}
    doubts: Mapping[str, str]  # by the same keys: why a rate says nothing

    @property
    def style(self) -> str:
        """Return the colour as an inline custom property."""
        return f"--system: var({self.colour})"


def shown_systems(campaign: Campaign, user: User) -> list[ShownSystem]:
    """Return the systems of a campaign by index, in two queries."""
    rows = list(campaign.systems.select_related("run__owner").order_by("index"))
    visible = {row.index: row.run for row in rows if row.run and (row.run.shared or may_change(user, row.run))}
    reports = _reports([run for run in visible.values() if run])
    colours = _colours(rows)
    return [
        ShownSystem(
            row.index, row.label, row.get_kind_display(), colours[row.index], row.is_reference, visible.get(row.index),
            row.run_id is not None and row.index not in visible, *_rates(row, reports),
        )
        for row in rows
    ]  # fmt: skip


def measures_of(systems: Sequence[ShownSystem]) -> list[tuple[str, str]]:
    """Return key and title of the measures that at least one system has."""
    return [(key, title) for key, title in MEASURES.items() if any(system.rates.get(key) for system in systems)]


def _reports(runs: Sequence[Run]) -> dict[int, dict[str, Any]]:
    done = RunStage.objects.filter(run__in=runs, key="report", stage__status=Status.DONE)
    return dict(done.values_list("run", "stage__summary"))


def _rates(row: System, reports: Mapping[int, Mapping[str, Any]]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Return a system's win rates in its run, and why some of them say nothing."""
    part = {System.Kind.POLICY: "policy", System.Kind.SFT: "sft"}.get(System.Kind(row.kind))
    report = reports.get(row.run_id or 0, {})
    rates = report.get(part) or {} if part else {}
    return rates, {key: DOUBT for key in rates if is_doubtful(key, report)}


def _colours(rows: Sequence[System]) -> dict[int, str]:
    """Return each system's colour: its own where it has one, and no colour twice."""
    taken: dict[int, str] = {}
    for row in rows:
        own = _own_colour(row)
        free = [name for name in (own, *_PALETTE) if name and name not in taken.values()]
        taken[row.index] = free[0]
    return taken


def _own_colour(row: System) -> str:
    kind = System.Kind(row.kind)
    return system_of(row.run.config).colour if kind == System.Kind.POLICY and row.run else _OWN.get(kind, "")
