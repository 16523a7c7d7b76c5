"""Measure two sides against each other in alternating rounds, and write down all that a reader would ask.

A benchmark is a script run as `python -m benchmarks.NAME`. It names two sides, each a module with
`prepare(settings) -> benchmarks.worker.Prepared` and the Python to run it with; here each becomes a process that loads
once. Rounds alternate (ours first, then the peer first, …), one side working while the other waits, so that a slow
minute of the machine falls on both. The speed-up of a round is the ratio of items per second; the result is the median
over rounds. Peak memory is that of each process during its rounds (Linux resets the mark before every round).

    def main() -> None:
        options = parser(__doc__).parse_args()
        ours = Side("rso_core", "benchmarks.fitting_ours", {"model": str(options.model), …})
        peer = best_setting(Side("TRL DPOTrainer", "benchmarks.peers.dpo", {…}, python=peer_python()), [{…}, {…}], options)
        result = compare("fitting_200_48", ours, peer, options, lengths=…, token_bound=…, target={"speedup": 6, "memory": 0.5})
        finish([result], options)

`finish` writes `benchmarks/results/NAME.json` for each result and ends standard output with one line of JSON.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEERS = ROOT / ".venv-peers"
_CALIBRATION_STEPS = 2_000_000
_LONGEST_SETTING = 100  # characters of a list


class BenchmarkError(Exception):
    """A side did not work; the message names it."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared. `settings` are JSON; the harness adds `threads` and `dtype` to them."""

    name: str
    module: str
    settings: dict[str, Any] = field(default_factory=dict)
    python: str = sys.executable


def peer_python() -> str:
    """Return the Python of the peers' environment. Raises BenchmarkError when it has not been made."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        message = f"the peers' environment {PEERS.name} does not exist; run `make bench-peers`"
        raise BenchmarkError(message)
    return str(python)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the command line that all benchmarks share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, help="folder of the decoder-only model (config.json, safetensors)")
    made.add_argument("--preferences", type=Path, help="preference file whose texts are used")
    made.add_argument("--rounds", type=int, default=5, help="measured rounds of each side (default 5)")
    made.add_argument("--warmup", type=int, default=1, help="rounds before them that do not count (default 1)")
    made.add_argument("--more", action="store_true", help="add the rounds to those of the result files that are there")
    made.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    made.add_argument("--threads", type=int, default=int(os.environ.get("RSO_THREADS") or os.cpu_count() or 1))
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--tuned-by", metavar="NAME", help="take the peer's setting from this result instead of trying all"
    )
    made.add_argument("--untuned", action="store_true", help="take the peer's first setting instead of trying all")
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    return made


def parser_of_cases(description: str | None, cases: Iterable[str]) -> argparse.ArgumentParser:
    """Return the command line of a benchmark with several results, some of them over a second preference file."""
    made = parser(description)
    made.add_argument("--oasst", type=Path, help="a second preference file, for the results of OpenAssistant")
    made.add_argument("--only", nargs="+", choices=sorted(cases), help="measure these only (default: all)")
    return made


def require(options: argparse.Namespace, *names: str) -> None:
    """Exit with a sentence unless the named options were given and exist."""
    for name in names:
        path = getattr(options, name)
        if path is None or not path.exists():
            sys.exit(f"--{name} must name what exists, got {path}: benchmarks use your own model and data")


def wanted(cases: Iterable[str], options: argparse.Namespace) -> list[str]:
    """Return which results to measure: those that --only names, else all; those of OpenAssistant need its file."""
    return options.only or [name for name in cases if options.oasst or "oasst" not in name]


# Processes ---------------------------------------------------------------------------------------------------------------


class Worker:
    """A side's process, loaded and waiting."""

    def __init__(self, side: Side, process: "subprocess.Popen[str]", ready: dict[str, Any]) -> None:
        self.side, self._process, self.ready = side, process, ready

    def round(self) -> dict[str, Any]:
        """Let the side do one round and return what it took."""
        return _ask(self._process, self.side, {"round": 1})


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Return the environment of a measured process: the same threads for every library, no network, no GPU."""
    threads = str(options.threads)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "RSO_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


@contextmanager
def started(side: Side, options: argparse.Namespace) -> Iterator[Worker]:
    """Start a side and wait until it is loaded; end it afterwards."""
    command = [side.python, "-m", "benchmarks.worker", side.module]
    settings = {"threads": options.threads, "dtype": dtype(options), "seed": options.seed, **side.settings}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(options), cwd=ROOT
    ) as process:
        try:
            yield Worker(side, process, _ask(process, side, {"settings": settings}))
        finally:
            process.kill()


def _ask(process: "subprocess.Popen[str]", side: Side, question: dict[str, Any]) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        message = "a side's process needs pipes"
        raise ValueError(message)
    try:
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        message = f"{side.name} ({side.module}) ended with code {process.wait()}; its messages stand above"
        raise BenchmarkError(message)
    answer: dict[str, Any] = json.loads(line)
    return answer


# Rounds ------------------------------------------------------------------------------------------------------------------


def compare(  # noqa: PLR0913 - what a row of the table states
    name: str,
    ours: Side,
    peer: Side,
    options: argparse.Namespace,
    *,
    lengths: Mapping[str, Any],
    token_bound: float | None,
    target: Mapping[str, float],
    item: str = "items",
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the result of alternating rounds of two sides; raises BenchmarkError when one of them ends.

    lengths: of prompts, responses and the like (`texts.described`). token_bound: tokens the peer's way must compute ÷
    tokens ours must. target: `speedup` (at least), `memory` (our peak ÷ the peer's, at most), `bound_share` (speed-up
    ÷ token bound, at least), `utilisation`. notes: anything else that the reader needs. With --more, rounds measured
    before with the same settings count too.
    """
    before = earlier(name, options)
    with ExitStack() as stack:
        workers = [stack.enter_context(started(side, options)) for side in (ours, peer)]
        described = [_described(worker) for worker in workers]
        rounds = _rounds_before(before, described, name)
        for _ in range(options.warmup):
            for worker in workers:
                worker.round()
        facts = {
            "name": name,
            **provenance(options),
            "item": item,
            "lengths": dict(lengths),
            "token_bound": token_bound,
            "target": dict(target),
            "notes": dict(notes or {}),
            "ours": described[0],
            "peer": described[1],
        }
        for number in range(len(rounds), len(rounds) + options.rounds):
            rounds.append(alternate(workers, number, name))
            result = {**facts, "rounds": rounds, **summary(rounds)}
            save(result, options.results)  # whatever ends this, what was measured counts: see --more
    return result


def earlier(name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the result that --more adds to; None without --more, or when there is none yet."""
    path = options.results / f"{name}.json"
    if not options.more or not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _rounds_before(
    before: Mapping[str, Any] | None, described: Sequence[Mapping[str, Any]], name: str
) -> list[dict[str, Any]]:
    """Return the rounds of an earlier result. Raises BenchmarkError when it was measured with other settings."""
    if before is None:
        return []
    for place, now in zip(("ours", "peer"), described, strict=True):
        changed = [part for part in ("settings", "versions", "facts") if before[place].get(part) != now[part]]
        if changed:
            message = f"--more: {name} was measured with other {', '.join(changed)} of {place}; measure it anew"
            raise BenchmarkError(message)
    return list(before["rounds"])


class Works(Protocol):
    """A side that is ready: a process, or several."""

    def round(self) -> dict[str, Any]:
        """Do one round and return what it took."""


def alternate(workers: Sequence[Works], number: int, name: str) -> dict[str, Any]:
    """Return round `number`: both sides once, in an order that changes from round to round."""
    found: dict[str, Any] = {"calibration_seconds": calibration_seconds(), "load_average": os.getloadavg()[0]}
    places = ("ours", "peer") if number % 2 == 0 else ("peer", "ours")
    for place in places:
        found[place] = workers[place == "peer"].round()
    rate = {place: found[place]["items"] / found[place]["seconds"] for place in places}
    speedup = rate["ours"] / rate["peer"]
    print(f"{name}: round {number + 1}, {speedup:.2f} ×", file=sys.stderr)
    return found | {"first": places[0], "speedup": speedup}


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return medians of rounds: speed-up, items per second, and the peak memory of each side."""
    ratios = [found["speedup"] for found in rounds]
    peaks = {side: max(found[side]["peak_bytes"] for found in rounds) for side in ("ours", "peer")}
    rates = {
        side: statistics.median(found[side]["items"] / found[side]["seconds"] for found in rounds)
        for side in ("ours", "peer")
    }
    flops = [found["ours"]["flops"] / found["ours"]["seconds"] for found in rounds]
    return {
        "speedup_median": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "items_per_second": rates,
        "flops_per_second": statistics.median(flops),
        "peak_bytes": peaks,
        "memory_ratio": peaks["ours"] / peaks["peer"],
    }


def best_setting(
    side: Side,
    candidates: Sequence[dict[str, Any]],
    options: argparse.Namespace,
    *,
    name: str = "",
    small: Mapping[str, Any] | None = None,
) -> Side:
    """Return `side` with the fastest of several settings: one round each, after the warm-up rounds.

    What was tried stays in the settings as `tried`, so that the result shows how the peer was tuned. `small` replaces
    settings while trying: less work of the same kind. With --more, what was tried for the result `name` holds.
    """
    before = earlier(name, options)
    tried = [] if before is None else list(before["peer"]["settings"].get("tried", ()))
    for candidate in [] if tried else candidates:
        with started(replace(side, settings=side.settings | dict(small or {}) | candidate), options) as worker:
            for _ in range(options.warmup):
                worker.round()
            found = worker.round()
        tried.append(
            {**candidate, "items_per_second": found["items"] / found["seconds"], "peak_bytes": found["peak_bytes"]}
        )
        print(f"{side.name}: {tried[-1]}", file=sys.stderr)
    best = max(range(len(tried)), key=lambda i: tried[i]["items_per_second"])
    return replace(side, settings=side.settings | candidates[best] | {"tried": tried})


def tuned(
    side: Side,
    candidates: Sequence[dict[str, Any]],
    options: argparse.Namespace,
    *,
    name: str,
    small: Mapping[str, Any] | None = None,
) -> Side:
    """Return `side` with its best setting for the result `name`, with that of the result that --tuned-by names, or untuned."""
    if options.untuned:
        return replace(side, settings=side.settings | candidates[0])
    if options.tuned_by is None:
        return best_setting(side, candidates, options, name=name, small=small)
    found = json.loads((options.results / f"{options.tuned_by}.json").read_text(encoding="utf-8"))
    chosen = {name: found["peer"]["settings"][name] for name in (*candidates[0], "tried")}
    return replace(side, settings=side.settings | chosen)


def _described(worker: Worker) -> dict[str, Any]:
    side = worker.side
    return {"name": side.name, "module": side.module, "settings": _without_texts(side.settings), **worker.ready}


def _without_texts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return portable settings in which long lists (people's texts, their token ids, pairs of them) are a digest."""
    found: dict[str, Any] = {}
    for name, value in portable(settings).items():
        written = json.dumps(value)
        digest = hashlib.sha256(written.encode()).hexdigest()
        texts = isinstance(value, list) and name != "tried" and len(written) > _LONGEST_SETTING
        found[name] = f"sha256:{digest}" if texts else value
    return found


# What stands beside every figure -----------------------------------------------------------------------------------------


def provenance(options: argparse.Namespace) -> dict[str, Any]:
    """Return command, time, machine, threads and dtype: what every result file begins with."""
    return {
        "command": command(),
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "threads": options.threads,
        "dtype": dtype(options),
    }


def command() -> str:
    """Return the command as a reader would type it; paths outside of the project lose their folders."""
    script = Path(sys.argv[0]).stem
    return " ".join(["python -m", f"benchmarks.{script}", *(portable(argument) for argument in sys.argv[1:])])


def portable(value: Any) -> Any:
    """Return `value` with absolute paths shortened to their last part, so that results do not depend on folders."""
    if isinstance(value, Mapping):
        return {name: portable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [portable(part) for part in value]
    return Path(value).name if isinstance(value, str | Path) and str(value).startswith("/") else value


def machine() -> dict[str, Any]:
    """Return processor, cores, memory, and whether it multiplies bfloat16."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    flags = set(facts.get("flags", "").split())
    return {
        "processor": facts.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "bfloat16": sorted(flags & {"amx_bf16", "avx512_bf16"}),
        "system": f"{platform.system()} {platform.release()}",
    }


def dtype(options: argparse.Namespace) -> str:
    """Return the dtype both sides use: bfloat16 where the processor multiplies it."""
    if options.dtype != "auto":
        return str(options.dtype)
    return "bfloat16" if machine()["bfloat16"] else "float32"


def calibration_seconds() -> float:
    """Return the time of a fixed loop, best of three: it tells a busy machine from a quiet one."""

    def once() -> float:
        start = time.perf_counter()
        total = 0
        for number in range(_CALIBRATION_STEPS):
            total += number & 7
        return time.perf_counter() - start

    return min(once() for _ in range(3))


def save(result: Mapping[str, Any], folder: Path) -> Path:
    """Write a result to `folder/NAME.json` and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['name']}.json"
    path.write_text(json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def finish(results: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Write the results, and end standard output with one line of JSON: the first one's speed-up, and all rows."""
    for result in results:
        save(result, options.results)
    rows = [
        {name: result.get(name) for name in ("name", "speedup_median", "memory_ratio", "token_bound", "target")}
        | {"speedups": [found["speedup"] for found in result.get("rounds", ()) if "speedup" in found]}
        for result in results
    ]
    print(json.dumps({"speedup_median": results[0].get("speedup_median"), "rows": rows}))
