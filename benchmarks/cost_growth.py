"""Measure how time and peak memory grow with prompts (the data path and 200 fitting steps) and with candidates.

    python -m benchmarks.cost_growth [--prompts 1000 10000 100000] [--candidates 16 64 256] [--rounds 3] [--keep FOLDER]

The texts of the built-in task with a model of one narrow layer, so that what grows with the data is not hidden behind it. Each size is a
process of its own; a figure is the best of the rounds. --keep holds what was measured, so that a benchmark that was
ended goes on where it was. Linear means: what one more item costs between the two largest
sizes is at most 1.1 times what it cost between the two smallest; the 200 steps must cost the same at every size. Of the
fitting stage the steps (from the first report to the last) and the rest, which reads all pairs, are told apart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, calibration_seconds, environment, parser, provenance, save
from benchmarks.worker import forget_peak, peak_bytes, versions

LINEAR = 1.1
STEPS = 200
_DATA_PATH = ("length_profile", "sft", "pairs", "reference_log_probs", "policy_fitting")
_POOL = ("sft", "reward_training", "sampling", "scoring", "rejection_sampling", "pairs")
_GROWS_WITH = {
    "prompts": ("import_dataset", "length_profile", "pairs", "reference_log_probs", "reading_for_fitting"),
    "candidates": ("sampling", "scoring", "rejection_sampling"),
}


def main() -> None:
    """Measure and write `cost_growth.json`."""
    made = parser(__doc__)
    made.set_defaults(rounds=3, dtype="float32", threads=1)
    made.add_argument("--prompts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    made.add_argument("--candidates", type=int, nargs="+", default=[16, 64, 256])
    made.add_argument("--steps", type=int, default=STEPS, help="fitting steps at each number of prompts")
    made.add_argument("--keep", type=Path, help="folder of the rounds that are done (default: none is kept)")
    made.add_argument("--child", nargs=2, metavar=("WHAT", "SIZE"), help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.child:
        print(json.dumps(stages_of(options.child[0], int(options.child[1]), options.steps)))
        return
    result = measure(options)
    save(result, options.results)
    print(json.dumps({"name": result["name"], "within": result["within"], "growth": result["growth"]}))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the result file holds."""
    sizes = {"prompts": sorted(options.prompts), "candidates": sorted(options.candidates)}
    raw = {what: {str(size): _rounds(what, size, options) for size in of} for what, of in sizes.items()}
    best = {what: {size: best_of(rounds) for size, rounds in of.items()} for what, of in raw.items()}
    growth = {what: growth_of(best[what], _GROWS_WITH[what]) for what in sizes}
    fitting = [figures["fitting_steps"]["seconds"] for figures in best["prompts"].values()]
    steps = max(fitting) / min(fitting)
    worst = max(value for stages in growth.values() for figures in stages.values() for value in figures.values())
    return {
        "name": "cost_growth",
        **provenance(options),
        "versions": versions(),
        "calibration_seconds": calibration_seconds(),
        "target": {"linear": LINEAR},
        "steps": options.steps,
        "sizes": best,
        "rounds": raw,
        "growth": growth,
        "fitting_steps_ratio": steps,
        "within": worst <= LINEAR and steps <= LINEAR,
    }


def best_of(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the least seconds and the least peak of every stage."""
    return {
        key: {name: min(found[key][name] for found in rounds) for name in ("seconds", "peak_bytes")}
        for key in rounds[0]
    }


def growth_of(sizes: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return for each stage how the cost of one more item changes from the smallest sizes to the largest (1: linear)."""
    numbers = sorted(int(size) for size in sizes)
    return {
        stage: {
            name: slope_ratio([(number, sizes[str(number)][stage][name]) for number in numbers])
            for name in ("seconds", "peak_bytes")
        }
        for stage in stages
    }


def slope_ratio(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope between the last two points ÷ the slope over all before; 0 where the value does not rise.

    A value that rises only at the end cannot be judged by its first slope; it is then judged by the mean cost of an
    item, as everything is that has two points.
    """
    (first, low), (middle, between), (last, high) = points[0], points[-2], points[-1]
    end = (high - between) / (last - middle)
    start = (between - low) / (middle - first) if middle > first else 0.0
    if end <= 0:
        return 0.0
    return end / start if start > 0 else end / (high / last)


def _rounds(what: str, size: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for number in range(options.rounds):
        kept = options.keep and options.keep / f"{what}-{size}-{options.steps}-{number}.json"
        if kept and kept.exists():
            found.append(json.loads(kept.read_text(encoding="utf-8")))
            continue
        command = [
            sys.executable,
            "-m",
            "benchmarks.cost_growth",
            "--child",
            what,
            str(size),
            "--steps",
            str(options.steps),
        ]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(options), stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(found[-1]), encoding="utf-8")
        print(f"{size} {what}, round {number + 1}: {found[-1]}", file=sys.stderr)
    return found


def stages_of(what: str, size: int, steps: int) -> dict[str, Any]:
    """Execute the stages that grow, and return seconds and peak memory of each."""
    from rso_core.artifacts import ArtifactStore
    from rso_core.local_run import LocalRun
    from rso_core.protocol import Event, Progress
    from rso_core.terminal import Line

    reports: list[float] = []

    class Timed(Line):
        def show(self, event: Event) -> None:
            if isinstance(event, Progress) and event.unit == "steps":
                reports.append(time.perf_counter())
            super().show(event)

    recipe, keys = (_data_path(size, steps), _DATA_PATH) if what == "prompts" else (_pool(size), _POOL)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = _config(recipe | {"model.base": str(narrow_model(Path(folder) / "narrow"))})
        run = LocalRun(ArtifactStore(f"{folder}/store"), make_line=Timed)
        plan = _measured(figures, "import_dataset", lambda: run.plan(config))
        done: dict[str, Any] = {}
        for stage in (stage for stage in plan.stages if stage.key in keys):
            inputs = stage.digests | {name: done[key].digest for name, key in stage.needs.items()}
            reports.clear()
            done[stage.key] = _measured(figures, stage.key, lambda: run.do(stage, inputs, stage.title))  # noqa: B023 - called at once
    if what == "prompts":
        whole = figures["policy_fitting"]
        figures["fitting_steps"] = whole | {"seconds": reports[-1] - reports[0]}
        figures["reading_for_fitting"] = whole | {"seconds": whole["seconds"] - (reports[-1] - reports[0])}
    return figures


def _measured(figures: dict[str, Any], key: str, work: Any) -> Any:
    forget_peak()
    start = time.perf_counter()
    done = work()
    figures[key] = {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes()}
    return done


def _config(changes: Mapping[str, Any]) -> Any:
    from rso_core.demo import changed, demo_config

    return changed(demo_config("rso"), {**changes, "sft.enabled": False, "data.sft": "mini_tldr:size=400,seed=0"})


def narrow_model(folder: Path) -> Path:
    """Write a decoder of one layer of width 32 with the built-in task's tokenizer, and return its folder."""
    from transformers import AutoModelForCausalLM

    from rso_core.mini_tldr_model import write_base_model
    from rso_core.models import read_config

    config = read_config(write_base_model(folder))
    narrow = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    config.update({**narrow, "num_key_value_heads": 2})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def _data_path(prompts: int, steps: int) -> dict[str, Any]:
    """Return the settings of a recipe whose human pairs are fitted directly, as many as there are prompts."""
    return {
        "data.preferences": f"mini_tldr:size={prompts},seed=0",
        "pairs.pair_source": "direct",
        "fitting.max_steps": steps,
        "fitting.num_checkpoints": 1,
        "fitting.checkpoint_every": steps,
    }


def _pool(candidates: int) -> dict[str, Any]:
    """Return the settings of a recipe with so many candidates for each of a few prompts."""
    return {
        "data.preferences": "mini_tldr:size=400,seed=0",
        "reward.max_steps": 2,
        "sampling.max_prompts": 64,
        "sampling.num_candidates": candidates,
    }


if __name__ == "__main__":
    main()
