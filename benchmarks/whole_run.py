"""Measure whole RSO runs, import to win rate, against the same steps scripted with TRL and transformers.

    python -m benchmarks.whole_run --model FOLDER --preferences FILE [--rounds 3] [--work FOLDER] [--set NAME=VALUE …]

Ours is `python -m rso_core run` with the recipe for real preferences and an empty store; the peer is
`benchmarks.peers.whole_run`, which gets the same splits and prompts ready-made. Both count from process start to end. Runs
alternate and take long, so every finished side of a round is kept in the work folder: the same command goes on from there,
`--only ours` or `--only peer` does one side, and the result file says how many rounds are complete.
`--tokens` does both sides once more, not against the clock, and counts the tokens that go through the models: the token
bound is their ratio, without the peer's padding.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    ROOT,
    BenchmarkError,
    calibration_seconds,
    dtype,
    environment,
    finish,
    parser,
    peer_python,
    provenance,
    require,
    summary,
)
from benchmarks.study_grid import settings
from benchmarks.texts import tokenizer_of
from benchmarks.worker import versions

RECIPE = ROOT / "rso_core" / "recipes" / "real_dialogue.yaml"
SIDES = ("ours", "peer")


def main() -> None:
    """Do the sides that are missing and write `whole_run.json` when a round is complete."""
    made = parser(__doc__)
    made.set_defaults(rounds=3)
    made.add_argument(
        "--work", type=Path, default=ROOT / "var" / "benchmarks" / "whole_run", help="folder of finished sides"
    )
    made.add_argument("--only", choices=SIDES, help="do this side only")
    made.add_argument("--tokens", action="store_true", help="count tokens instead of measuring rounds")
    made.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="replace a setting of the recipe"
    )
    options = made.parse_args()
    require(options, "model", "preferences")
    options.work.mkdir(parents=True, exist_ok=True)
    config = recipe(options)
    if options.tokens:
        _count_tokens(config, options)
    else:
        _measure(config, options)
    rounds = complete_rounds(options.work)
    if not rounds:
        print(json.dumps({"speedup_median": None, "complete_rounds": 0}))
        return
    finish([result(rounds, config, options)], options)


def _measure(config: Any, options: argparse.Namespace) -> None:
    for number in range(options.rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            if options.only in (None, side):
                _once(number, side, config, options)


def recipe(options: argparse.Namespace) -> Any:
    """Return the recipe both sides follow."""
    from rso_core.demo import changed, real_config

    preferences, model = (str(path.resolve()) for path in (options.preferences, options.model))
    config = real_config(preferences=preferences, sft=preferences, base=model)
    return changed(config, {"model.dtype": dtype(options), **settings(options.set)})


def result(rounds: list[dict[str, Any]], config: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the result file holds."""
    return {
        "name": "whole_run",
        **provenance(options),
        "item": "runs",
        "lengths": {
            "train_prompts": config.sampling.max_prompts,
            "candidates": config.sampling.num_candidates,
            "prompt_tokens": _prompt_lengths(options, config.data.max_prompt_tokens),
            "response_tokens_limit": config.data.max_response_tokens,
        },
        **_token_bound(options.work),
        "target": {"speedup": 4.0},
        "ours": {
            "name": "python -m rso_core run",
            "settings": {"recipe": RECIPE.name, "set": options.set},
            "versions": versions(),
        },
        "peer": {"name": "script with TRL and transformers", "versions": rounds[0]["peer"]["versions"]},
        "rounds": rounds,
        **summary(rounds),
    }


def complete_rounds(work: Path) -> list[dict[str, Any]]:
    """Return the rounds of which both sides have finished."""
    found = []
    for ours in sorted(work.glob("round-*-ours.json")):
        peer = ours.with_name(ours.name.replace("ours", "peer"))
        if peer.exists():
            sides = {
                side: json.loads(path.read_text(encoding="utf-8"))
                for side, path in zip(SIDES, (ours, peer), strict=True)
            }
            found.append({**sides, "speedup": sides["peer"]["seconds"] / sides["ours"]["seconds"]})
    return found


def _once(number: int, side: str, config: Any, options: argparse.Namespace) -> None:
    """Do one side of a round, unless it has been done."""
    path = options.work / f"round-{number + 1}-{side}.json"
    if path.exists():
        return
    calibration = {"calibration_seconds": calibration_seconds(), "load_average": os.getloadavg()[0]}
    found = (_ours if side == "ours" else _peer)(config, options)
    record = {"items": 1, "tokens": 0, "flops": 0.0, **calibration, **found}
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"whole run: round {number + 1}, {side}: {found['seconds']:.0f} s", file=sys.stderr)


def _count_tokens(config: Any, options: argparse.Namespace) -> None:
    """Do both sides under `benchmarks.token_count`, unless that has been done."""
    tokenizer = tokenizer_of(options.model)[0]
    rows = json.loads((options.model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    for side, work, ends in (("ours", _ours, -1), ("peer", _peer, padding)):
        path = options.work / f"tokens-{side}.json"
        if options.only in (None, side) and not path.exists():
            work(config, options, ("-m", "benchmarks.token_count", str(path.resolve()), str(rows), str(ends)))


def _prompt_lengths(options: argparse.Namespace, limit: int) -> dict[str, Any]:
    """Return the lengths of the training prompts under the chat template, in tokens."""
    tokenizer = tokenizer_of(options.model)[0]
    rows = json.loads((options.work / "inputs.json").read_text(encoding="utf-8"))["prompts"]["train"]
    asked = [json.loads(row["messages"]) for row in rows]
    texts = [tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in asked]
    lengths = [min(limit, len(tokenizer.encode(text, add_special_tokens=False))) for text in texts]
    return {"median": statistics.median(lengths), "mean": statistics.fmean(lengths), "max": max(lengths)}


def _token_bound(work: Path) -> dict[str, Any]:
    """Return the tokens of both sides and their ratio, as far as they have been counted."""
    paths = {side: work / f"tokens-{side}.json" for side in SIDES}
    if not all(path.exists() for path in paths.values()):
        return {"token_bound": None}
    tokens = {side: json.loads(path.read_text(encoding="utf-8"))["tokens"] for side, path in paths.items()}
    return {"token_bound": tokens["peer"] / tokens["ours"], "tokens_of_a_run": tokens}


def _ours(config: Any, options: argparse.Namespace, runner: Sequence[str] = ("-m",)) -> dict[str, Any]:
    from rso_core.config import dump_run_config

    store, recipe_file = options.work / "store", options.work / "recipe.yaml"
    shutil.rmtree(store, ignore_errors=True)
    recipe_file.write_text(dump_run_config(config), encoding="utf-8")
    found = _timed([sys.executable, *runner, "rso_core", "run", str(recipe_file), "--store", str(store)], options)
    run = json.loads(next((store / "runs").glob("*.json")).read_text(encoding="utf-8"))
    shutil.rmtree(store)
    return found | {"stages": {key: stage["seconds"] for key, stage in run["stages"].items()}}


def _peer(config: Any, options: argparse.Namespace, runner: Sequence[str] = ("-m",)) -> dict[str, Any]:
    inputs, record = options.work / "inputs.json", options.work / "peer-record.json"
    inputs.write_text(json.dumps(peer_inputs(config)), encoding="utf-8")
    record.unlink(missing_ok=True)
    command = [peer_python(), *runner, "benchmarks.peers.whole_run", str(inputs), str(record)]
    found = _timed(command, options)
    return found | json.loads(record.read_text(encoding="utf-8"))


def peer_inputs(config: Any) -> dict[str, Any]:
    """Return the recipe and the rows of every step of the peer: our import and our splits, which cost it no time."""
    from rso_core import importers
    from rso_core.run_data import split_settings
    from rso_core.stages import prompts_of_split, rows_of_split

    split, seed = split_settings(config), config.seed
    limits = {
        "train": config.sampling.max_prompts,
        "validation": config.evaluation.max_validation_prompts,
        "test": config.evaluation.max_test_prompts,
    }
    with tempfile.TemporaryDirectory() as folder:
        pairs, targets = Path(folder) / "pairs", Path(folder) / "targets"
        for path in (pairs, targets):
            path.mkdir()
        importers.import_file(Path(config.data.preferences), pairs, importers.Options(kind="preference"))
        importers.import_sft_from(sorted(pairs.glob("*.arrow")), targets)
        pair_files, target_files = (sorted(path.glob("*.arrow")) for path in (pairs, targets))
        human = {name: rows_of_split(pair_files, name, split) for name in ("train", "test")}
        prompts = {name: prompts_of_split(target_files, name, split, limit=n, seed=seed) for name, n in limits.items()}
    return {"config": config.model_dump(mode="json"), "human": human, "prompts": prompts}


def _timed(command: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Run a command and return its wall time and peak memory. Raises BenchmarkError when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment(options), stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        message = f"{' '.join(command[:3])} ended with status {status}; its messages stand above"
        raise BenchmarkError(message)
    return {"seconds": time.perf_counter() - start, "peak_bytes": usage.ru_maxrss * 1024}


if __name__ == "__main__":
    main()
