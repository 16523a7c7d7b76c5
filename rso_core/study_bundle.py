"""What leaves the product of a study: a JSON bundle from which it can be run again, CSV, LaTeX and Markdown.

A bundle holds the study itself, its table with intervals, every comparison, what was shared, what the data cost, and
the versions that made it. Figures are fractions in the bundle and per cent in the tables for people.
"""

import csv
import io
import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from rso_core.artifacts import ArtifactStore
from rso_core.auto_sxs import is_better_than_chance
from rso_core.plan import CODE_VERSIONS, GOLD
from rso_core.studies import Arm, Study, shown
from rso_core.study_presets import printed_tables
from rso_core.study_results import (
    METRIC_TITLES,
    METRICS,
    SFT,
    CellRecord,
    all_comparisons,
    cost,
    estimates,
    judge_of,
    judged_counts,
    measured,
    planned_comparisons,
    sharing,
)

BUNDLE_VERSION = 1
_REWARD_FIGURES = ("heldout_pairs", "accuracy", "longer_wins", "first_shown_wins", "order_flips", "mean_confidence")
_REWARD_STAGES = {"proxy": "reward_training", "gold": GOLD}
_PACKAGES = ("torch", "transformers", "numpy")

Bundle = dict[str, Any]


def make_bundle(
    study: Study, records: Sequence[CellRecord], store: ArtifactStore, *, every_comparison: bool = True
) -> Bundle:
    """Return everything known of a study, finished or not; without `every_comparison` only the planned ones."""
    comparisons = all_comparisons if every_comparison else planned_comparisons
    found = measured(records, store)
    means = estimates(found)
    rows = [_row(study, arm, records, means.get(arm.key, {})) for arm in study.all_arms]
    return {
        "bundle_version": BUNDLE_VERSION,
        "study": study.model_dump(mode="json"),
        "sft": {metric: value.as_dict() for metric, value in means[SFT].items()},
        "rows": rows,
        "comparisons": [item.as_dict() for item in comparisons(study, found)],
        "judge": judge_of(records),
        "auto_sxs": judged_counts(records),
        "reward_models": reward_models(records),
        "sharing": sharing(records),
        "cells": [_cell(record) for record in records],
        "versions": versions(),
    }


def _row(study: Study, arm: Arm, records: Sequence[CellRecord], means: Mapping[str, Any]) -> dict[str, Any]:
    own = [record for record in records if record.cell.arm == arm.key]
    costs = [found for record in own if (found := cost(record)) is not None]
    return {
        "arm": arm.key,
        "settings": {path: _setting(own[0], path) for path in study.axes},
        "seeds_done": [record.cell.seed for record in own if record.is_done],
        "seeds_missing": [record.cell.seed for record in own if not record.is_done],
        "figures": {metric: value.as_dict() for metric, value in means.items()},
        "paper": {name: table.figures(arm.key) for name, table in printed_tables(study).items()},
        "cost": costs[0].as_dict() if costs else None,
        "mean_chars": _mean([_length(record) for record in own]),
    }


def reward_models(records: Sequence[CellRecord]) -> list[dict[str, Any]]:
    """Return how good each reward model of the study is on held-out human pairs, with its metric and the seeds that use it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record, (metric, key) in itertools.product(records, _REWARD_STAGES.items()):
        stage = record.stages.get(key)
        if stage is not None and stage.digest and stage.summary:
            known = {"metric": metric, "seeds": []} | {name: stage.summary.get(name) for name in _REWARD_FIGURES}
            seeds: list[int] = found.setdefault((metric, stage.digest), known)["seeds"]
            seeds += [record.cell.seed] if record.cell.seed not in seeds else []
    return list(found.values())


def doubtful_reward_models(bundle: Bundle) -> list[dict[str, Any]]:
    """Return the measured reward models that held-out human pairs do not show to be better than chance."""
    found: list[dict[str, Any]] = bundle.get("reward_models", [])
    return [model for model in found if model["accuracy"] and not is_better_than_chance(model["accuracy"])]


def _setting(record: CellRecord, path: str) -> Any:
    value: Any = record.cell.config.model_dump(mode="json")
    for part in path.split("."):
        value = value[part]
    return value


def _length(record: CellRecord) -> float | None:
    stage = record.stages.get("win_rate_policy")
    return stage.summary["mean_response_chars"] if stage and stage.digest and stage.summary else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _cell(record: CellRecord) -> dict[str, Any]:
    policy = record.stages.get("win_rate_policy")
    summary = (policy.summary or {}) if policy and policy.digest else {}
    return {
        "arm": record.cell.arm,
        "seed": record.cell.seed,
        "done": record.is_done,
        "figures": {metric: summary[metric] for metric in METRICS if summary.get(metric)},
        "digests": {key: stage.digest for key, stage in record.stages.items() if stage.digest},
    }


def versions() -> dict[str, Any]:
    """Return what made the figures: packages, Python, threads, and the version of each stage's code."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": os.environ.get("RSO_THREADS", ""),
        **{name: version(name) for name in _PACKAGES},
        "stages": dict(CODE_VERSIONS),
    }


def metrics_of(bundle: Bundle) -> list[str]:
    """Return the metrics that any row of a bundle has."""
    return [metric for metric in METRICS if any(metric in row["figures"] for row in bundle["rows"])]


def columns_of(bundle: Bundle) -> list[str]:
    """Return the metrics that a table of the bundle shows: also AutoSxS that was asked and could judge nothing."""
    known = metrics_of(bundle)
    return [*known, "auto_sxs"] if bundle.get("auto_sxs") and "auto_sxs" not in known else known


def table_rows(bundle: Bundle) -> list[dict[str, Any]]:
    """Return the rows of a table of figures in %, with limits, seeds and the paper's figures: for CSV."""
    return [_flat(bundle, row) for row in [_sft_row(bundle), *bundle["rows"]]]


def _sft_row(bundle: Bundle) -> dict[str, Any]:
    return {"arm": SFT, "settings": {}, "figures": bundle["sft"], "paper": {}, "seeds_done": [], "seeds_missing": []}


def _flat(bundle: Bundle, row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {"arm": row["arm"], **row["settings"]}
    for metric in columns_of(bundle):
        figure = row["figures"].get(metric)
        for name in ("value", "low", "high"):
            flat[f"{metric}_{name}"] = round(100 * figure[name], 2) if figure else ""
        flat[f"{metric}_seeds"] = figure["seeds"] if figure else 0
    for name, printed in row["paper"].items():
        flat |= {f"paper_{name}_{metric}": value for metric, value in printed.items()}
    return flat


def as_csv(bundle: Bundle) -> str:
    """Return the table as CSV."""
    rows = table_rows(bundle)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def percent(figure: Mapping[str, Any] | None, plus_minus: str = "±") -> str:
    """Return a figure as people read it, in %: value ± half of its interval."""
    if not figure:
        return "–"
    return f"{100 * figure['value']:.1f} {plus_minus} {50 * (figure['high'] - figure['low']):.1f}"


def marks(bundle: Bundle) -> dict[tuple[str, str], list[str]]:
    """Return for each arm and metric the arms that it is clearly above, of the planned comparisons."""
    found: dict[tuple[str, str], list[str]] = {}
    for item in bundle["comparisons"]:
        if item["verdict"] == "clear":
            ours, theirs = item["first"], item["second"]
            if item["difference"]["value"] < 0:
                ours, theirs = theirs, ours
            found.setdefault((ours, item["metric"]), []).append(theirs)
    return found


def _cells_of(bundle: Bundle, row: Mapping[str, Any], plus_minus: str) -> list[str]:
    settings = [shown(row["settings"][path]) if path in row["settings"] else "" for path in _columns(bundle)]
    figures = [percent(row["figures"].get(metric), plus_minus) for metric in columns_of(bundle)]
    printed = [
        f"{value:.2f}" if (value := row["paper"].get(name, {}).get(metric)) is not None else ""
        for name, metric in _printed_columns(bundle)
    ]
    return [row["arm"], *settings, *figures, *printed]


def _columns(bundle: Bundle) -> list[str]:
    return list(dict.fromkeys(path for row in bundle["rows"] for path in row["settings"]))


def _printed_columns(bundle: Bundle) -> list[tuple[str, str]]:
    seen = [(name, metric) for row in bundle["rows"] for name, printed in row["paper"].items() for metric in printed]
    return list(dict.fromkeys(seen))


def _header(bundle: Bundle) -> list[str]:
    settings = [path.rsplit(".", 1)[-1].replace("_", " ") for path in _columns(bundle)]
    printed = [f"paper {METRIC_TITLES[metric]}" for _, metric in _printed_columns(bundle)]
    return ["arm", *settings, *(METRIC_TITLES[metric] for metric in columns_of(bundle)), *printed]


_LATEX = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "–": "--", "~": r"\textasciitilde{}"}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def as_latex(bundle: Bundle) -> str:
    """Return the table as a LaTeX tabular (booktabs), with a star at figures that are clearly above a planned one."""
    header, above = _header(bundle), marks(bundle)
    first = 1 + len(_columns(bundle))
    lines = [r"\begin{tabular}{" + "l" * first + "r" * (len(header) - first) + "}", r"\toprule"]
    lines += [" & ".join(map(_latex, header)) + r" \\", r"\midrule"]
    for row in [_sft_row(bundle), *bundle["rows"]]:
        cells = [_latex(cell) for cell in _cells_of(bundle, row, "±")]
        for number, metric in enumerate(columns_of(bundle), start=first):
            star = "$^{*}$" if (row["arm"], metric) in above else ""
            cells[number] = cells[number].replace("±", r"$\pm$") + star
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def as_markdown(bundle: Bundle) -> str:
    """Return the table as Markdown; ▲ at figures that are clearly above a planned one."""
    header, above = _header(bundle), marks(bundle)
    first = 1 + len(_columns(bundle))
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * first + "---:|" * (len(header) - first)]
    for row in [_sft_row(bundle), *bundle["rows"]]:
        cells = _cells_of(bundle, row, "±")
        for number, metric in enumerate(columns_of(bundle), start=first):
            cells[number] += " ▲" if (row["arm"], metric) in above else ""
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def summary_lines(bundle: Bundle) -> list[str]:
    """Return a table for the terminal, what was shared, and what is missing."""
    header = _header(bundle)
    rows = [header, *(_cells_of(bundle, row, "±") for row in [_sft_row(bundle), *bundle["rows"]])]
    widths = [max(len(row[number]) for row in rows) for number in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    shared = bundle["sharing"]
    done = sum(cell["done"] for cell in bundle["cells"])
    lines.append(f"{done} of {len(bundle['cells'])} cells done; {_shared_words(shared)}")
    return lines


def _shared_words(shared: Mapping[str, Any]) -> str:
    kinds = shared["kinds"]
    counts = ", ".join(
        f"{kinds[kind]['done']} {words}"
        for kind, words in (
            ("reward_training", "reward models"),
            ("sampling", "pools"),
            ("policy_fitting", "fits"),
        )
        if kind in kinds
    )
    minutes, separate = shared["seconds"] / 60, shared["seconds_separate"] / 60
    return f"{counts}; {minutes:.0f} min of work, {separate:.0f} min had each cell done its own"
