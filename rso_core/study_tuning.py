"""Choose hyper-parameters of every method on validation prompts, with the same trials for each.

    python -m rso_core.study_tuning rso_core/mini_tuned.yaml --store var/reproduction --workers 2

A trial is a fit with other settings; the one whose selected checkpoint has the highest proxy win rate on the validation
prompts is kept, the first of equals. That is what the paper selects by; the exact gold reward is not looked at, and test
prompts and the seeds of the reproduction are not touched. What was tried stays in the file beside what was chosen.
"""

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rso_core.artifacts import ArtifactStore
from rso_core.config import RunConfig
from rso_core.demo import changed
from rso_core.studies import Arm, Changes, Study, parse_seeds, study_of
from rso_core.study_results import CellRecord

LOSSES = ("sigmoid_norm", "hinge", "hinge_norm")
SOURCES = ("direct", "sft_sample_rank", "rso_sample_rank")
METHODS: tuple[tuple[str, str], ...] = (
    *itertools.product(LOSSES, SOURCES),
    ("cross_entropy", "best_candidate"),
    ("cross_entropy", "above_threshold"),
)
TRIALS: tuple[Changes, ...] = tuple({"fitting.learning_rate": rate} for rate in (3e-5, 1e-4, 3e-4))
# Every validation prompt counts; the test prompts, which the plan asks for, are as few as may be and are not looked at.
_MEASURING: Changes = {
    "evaluation.max_validation_prompts": 0,
    "evaluation.max_test_prompts": 1,
    "evaluation.kl_prompts": 0,
    "fitting.select_by": "proxy_win_rate",
}
_NUMBER = " · trial "


def tuning_study(
    base: RunConfig,
    seeds: Iterable[int],
    *,
    methods: Iterable[tuple[str, str]] = METHODS,
    trials: Sequence[Changes] = TRIALS,
) -> Study:
    """Return the study whose arms are the trials of every method."""
    arms = [
        Arm(
            key=f"{loss} {source}{_NUMBER}{number}",
            changes={"fitting.loss": loss, "pairs.pair_source": source, **trial},
        )
        for loss, source in methods
        for number, trial in enumerate(trials, start=1)
    ]
    return study_of({"name": "Tuning", "base": changed(base, _MEASURING), "arms": arms, "seeds": tuple(seeds)})


def validation_rate(record: CellRecord) -> float:
    """Return the proxy win rate on validation prompts of the checkpoint that a finished cell kept."""
    summary = record.stages["checkpoint_selection"].summary or {}
    rates = {item["step"]: float(item["win_rate"]["value"]) for item in summary["checkpoints"]}
    return rates[summary["selected_step"]]


def choose(study: Study, records: Iterable[CellRecord]) -> dict[str, dict[str, Any]]:
    """Return for every method its trials, each with the mean over seeds of its validation rate, and the settings kept."""
    rates: dict[str, list[float]] = {}
    for record in records:
        rates.setdefault(record.cell.arm, []).append(validation_rate(record))
    found: dict[str, dict[str, Any]] = {}
    for arm in study.arms:
        method = arm.key.partition(_NUMBER)[0]
        settings = {
            path: value for path, value in arm.changes.items() if path.startswith("fitting.") and path != "fitting.loss"
        }
        trial = {"settings": settings, "validation_proxy": round(sum(rates[arm.key]) / len(rates[arm.key]), 4)}
        found.setdefault(method, {"trials": []})["trials"].append(trial)
    for tried in found.values():
        tried["kept"] = dict(max(tried["trials"], key=lambda trial: trial["validation_proxy"])["settings"])
    return found


def write_tuned(path: Path, study: Study, chosen: Mapping[str, Any]) -> None:
    """Write what was tried and kept, and how."""
    head = (
        "# Made by `make reproduce-tuning`: settings of every method, chosen with equal trials by the proxy win rate on all\n"
        "# validation prompts (mean over the seeds below). Studies of the built-in task use what was kept.\n"
    )
    values = {"seeds": list(study.seeds), "steps": study.base.fitting.max_steps, "methods": dict(chosen)}
    path.write_text(head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def main() -> None:
    """Tune the methods on the built-in task; goes on where an earlier start ended."""
    from rso_core.__main__ import set_threads
    from rso_core.local_run import exclusive
    from rso_core.study_presets import mini_base
    from rso_core.study_run import run_study

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", default="1")
    options = parser.parse_args()
    set_threads(options.workers)
    study, store = tuning_study(mini_base(), parse_seeds(options.seeds)), ArtifactStore(str(options.store))
    with exclusive(store):
        write_tuned(options.out, study, choose(study, run_study(study, store, workers=options.workers)))


if __name__ == "__main__":
    main()
