"""Any runs beside each other: results, what differs in their recipes, curves in one chart, responses to the same prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rso_core.artifacts import read_table
from webapp.runs.artifacts import store
from webapp.runs.curves import thinned
from webapp.runs.forms import flatten
from webapp.runs.models import Run, RunStage, Status
from webapp.runs.run_results import System, system_of

MOST_RUNS = 8
_SHOWN_PROMPTS = 10
_CURVES = (
    ("policy_fitting", "loss", "loss of the fit", False),
    ("policy_fitting", "margin", "reward margin", False),
    ("checkpoint_selection", "proxy_win_rate", "proxy win rate on validation prompts", True),
    ("reward_training", "accuracy", "reward model: accuracy on the batch", True),
)


@dataclass(frozen=True)
class ComparedRun:
    """A run with its system and the summary of its report."""

    run: Run
    system: System
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """A setting in which runs differ: its path and each run's value."""

    path: str
    values: list[str]


@dataclass(frozen=True)
class OverlaidCurve:
    """One value of a training, a line for each run."""

    id: str
    label: str
    figure: dict[str, Any]


@dataclass(frozen=True)
class Responses:
    """A test prompt with its target and what each run's policy answers, with ρ against the target."""

    prompt: str
    target: str
    answers: list[tuple[ComparedRun, str, float]]


def compared(runs: Sequence[Run]) -> list[ComparedRun]:
    """Return runs with their results, in two queries."""
    reports = RunStage.objects.filter(run__in=runs, key="report", stage__status=Status.DONE)
    summaries = dict(reports.values_list("run", "stage__summary"))
    return [ComparedRun(run, system_of(run.config), summaries.get(run.pk, {})) for run in runs]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Return the settings, other than the name, that are not the same in all runs."""
    recipes = [flatten(run.config) for run in runs]
    paths = dict.fromkeys(path for recipe in recipes for path in recipe if path != "name")
    rows = [Difference(path, [str(recipe.get(path, "–")) for recipe in recipes]) for path in paths]
    return [row for row in rows if len(set(row.values)) > 1]


def overlaid_curves(runs: Sequence[Run]) -> list[OverlaidCurve]:
    """Return the curves that more than none of the runs has, in two queries."""
    keys = {key for key, *_ in _CURVES}
    places = list(RunStage.objects.filter(run__in=runs, key__in=keys).values_list("run", "key", "stage"))
    points: dict[int, list[tuple[int, dict[str, float]]]] = {}
    for stage, step, values in thinned({stage for *_, stage in places}).values_list("stage", "step", "values"):
        points.setdefault(stage, []).append((step, values))
    stages = {(run, key): points.get(stage, []) for run, key, stage in places}
    found = [_curve(runs, stages, *curve) for curve in _CURVES]
    return [curve for curve in found if curve.figure["data"]]


def _curve(
    runs: Sequence[Run], stages: Mapping[tuple[int, str], list[tuple[int, dict[str, float]]]], key: str, name: str,
    label: str, is_share: bool,  # noqa: FBT001 - a row of the table above
) -> OverlaidCurve:  # fmt: skip
    traces = []
    for run in runs:
        drawn = [(step, values[name]) for step, values in stages.get((run.pk, key), []) if values.get(name) is not None]
        if drawn:
            traces.append({
                "x": [step for step, _ in drawn], "y": [float(f"{value:.5g}") for _, value in drawn], "name": run.name,
                "mode": "lines+markers" if len(drawn) < 20 else "lines",  # noqa: PLR2004 - so few are shown as points
            })  # fmt: skip
    layout = {
        "height": 260, "showlegend": True, "xaxis": {"title": {"text": "step"}},
        "yaxis": {"tickformat": ".0%" if is_share else ".3~g"},
    }  # fmt: skip
    return OverlaidCurve(f"compare-{key}-{name}", label, {"data": traces, "layout": layout})


def responses(runs: Sequence[ComparedRun], page: int = 1) -> tuple[list[Responses], int]:
    """Return a page of the test prompts that all measured runs answered, and how many pages there are."""
    stages = RunStage.objects.filter(
        run__in=[item.run for item in runs], key="win_rate_policy", stage__status=Status.DONE
    )
    digests = dict(stages.values_list("run", "stage__digest"))
    measured = [item for item in runs if item.run.pk in digests]
    tables = [_answers(digests[item.run.pk]) for item in measured]
    shared = [prompt for prompt in (tables[0] if tables else ()) if all(prompt in table for table in tables)]
    pages = max(1, -(-len(shared) // _SHOWN_PROMPTS))
    first = (min(max(page, 1), pages) - 1) * _SHOWN_PROMPTS
    found = []
    for prompt in shared[first : first + _SHOWN_PROMPTS]:
        rows = [table[prompt] for table in tables]
        answers = [(item, row["response"], row["probability"]) for item, row in zip(measured, rows, strict=True)]
        found.append(Responses(rows[0]["prompt"], rows[0]["target"], answers))
    return found, pages


def _answers(digest: str) -> dict[str, dict[str, Any]]:
    columns = ["prompt_id", "prompt", "target", "response", "probability"]
    return {row["prompt_id"]: row for row in read_table(store().files(digest), columns).to_pylist()}
