"""Measure the grid of 3 losses × 3 pair sources over shared stages against 9 separate runs of ours.

    python -m benchmarks.study_grid [--rounds 3] [--set NAME=VALUE …]

The built-in task, which needs no file. A round is 9 runs in one store, where each stage is done once, and 9 runs with a
store each, either in one process that has loaded its libraries before. The bound is what sharing can give at most: the
seconds of all stages of the separate runs ÷ the seconds of the distinct ones among them (by fingerprint).
"""

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import ROOT, calibration_seconds, environment, finish, parser, provenance
from benchmarks.worker import versions

LOSSES = ("sigmoid_norm", "hinge", "hinge_norm")
PAIR_SOURCES = ("direct", "sft_sample_rank", "rso_sample_rank")


def main() -> None:
    """Measure and write `study_grid.json`."""
    made = parser(__doc__)
    made.set_defaults(rounds=3, dtype="float32")
    made.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="replace a setting of the recipe"
    )
    made.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.child:
        print(json.dumps(run_grid(options.child, shared=options.child.name == "shared", changes=settings(options.set))))
        return
    rounds = [measured_round(number, options) for number in range(options.rounds)]
    finish([result(rounds, options)], options)


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Return settings written NAME=VALUE by name."""
    return {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in texts)}


def result(rounds: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Return what the result file holds."""
    speedups = [found["speedup"] for found in rounds]
    return {
        "name": "study_grid",
        **provenance(options),
        "versions": versions(),
        "item": "runs",
        "lengths": {"losses": list(LOSSES), "pair_sources": list(PAIR_SOURCES), "task": "mini_tldr"},
        "target": {"bound_share": 0.9},
        "rounds": list(rounds),
        "speedup_median": statistics.median(speedups),
        "speedup_range": [min(speedups), max(speedups)],
        "sharing_bound": statistics.median(found["bound"] for found in rounds),
        "bound_share": statistics.median(found["speedup"] / found["bound"] for found in rounds),
    }


def measured_round(number: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return round `number`: the grid and the separate runs, in an order that changes."""
    found: dict[str, Any] = {"calibration_seconds": calibration_seconds()}
    for name in ("shared", "separate") if number % 2 == 0 else ("separate", "shared"):
        found[name] = _in_a_process(name, options)
    found["speedup"] = found["separate"]["seconds"] / found["shared"]["seconds"]
    found["bound"] = sharing_bound(found["separate"]["stages"])
    print(f"study grid: round {number + 1}, {found['speedup']:.2f} × of {found['bound']:.2f} ×", file=sys.stderr)
    return found


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.study_grid", "--child", str(Path(folder) / name)]
        command += [f"--set={text}" for text in options.set]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(options), stdout=subprocess.PIPE, text=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def sharing_bound(stages: Sequence[Mapping[str, Any]]) -> float:
    """Return seconds of all stages ÷ seconds of the distinct ones (the mean where a fingerprint was done several times)."""
    by_fingerprint: dict[str, list[float]] = {}
    for stage in stages:
        by_fingerprint.setdefault(stage["fingerprint"], []).append(stage["seconds"])
    total = sum(stage["seconds"] for stage in stages)
    return total / sum(statistics.fmean(seconds) for seconds in by_fingerprint.values())


def grid(changes: Mapping[str, Any]) -> list[Any]:
    """Return the 9 recipes."""
    from rso_core.demo import changed, demo_config

    return [
        changed(
            demo_config("rso"),
            {"name": f"{loss} {source}", "fitting.loss": loss, "pairs.pair_source": source, **changes},
        )
        for source, loss in itertools.product(PAIR_SOURCES, LOSSES)
    ]


def run_grid(folder: Path, *, shared: bool, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Execute the 9 recipes in one store or in one each; return the seconds, and every stage that was done."""
    import torch  # noqa: F401 - loaded before the clock runs, with all that stages import
    import transformers.optimization  # noqa: F401

    from rso_core.artifacts import ArtifactStore
    from rso_core.local_run import LocalRun

    store_of = (lambda _: folder) if shared else (lambda number: folder / str(number))
    stages: list[dict[str, Any]] = []
    seconds = 0.0
    for number, config in enumerate(grid(changes)):
        start = time.perf_counter()
        run = LocalRun(ArtifactStore(str(store_of(number))))
        done = run.run(config)
        seconds += time.perf_counter() - start
        plan = run.plan(config)
        stages += [
            {"key": stage.key, "fingerprint": stage.fingerprint, "seconds": done[stage.key].seconds}
            for stage in plan.stages
        ]
        if not shared:
            shutil.rmtree(store_of(number))
    return {"seconds": seconds, "stages": stages}


if __name__ == "__main__":
    main()
