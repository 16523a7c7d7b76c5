"""The side that is measured: a process that imports and loads once, then does one round for every line it reads.

    python -m benchmarks.worker MODULE < {"settings": …} then {"round": 1} …

`MODULE.prepare(settings)` returns a `Prepared`. The process answers each line with one line of JSON on what was its
standard output; whatever libraries print goes to standard error. Nothing here imports more than the standard library,
so that it runs in the peers' environment too.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")


@dataclass
class Round:
    """What one round did.

    items: what the speed is counted in (pairs, comparisons, candidates). tokens: tokens that went through the model,
    padding not counted. seconds: None for the time around the whole round; a number when a part of it (the making of
    a Trainer) is not to count. flops: of the matrix products that the algorithm needs, 0 where nobody asks. extra:
    anything worth keeping (a loss, so that both sides can be seen to do the same).
    """

    items: int
    tokens: int = 0
    seconds: float | None = None
    flops: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Prepared:
    """A loaded side: `run` does one round; `facts` says what was loaded and how it is set (JSON)."""

    run: Callable[[], Round]
    facts: dict[str, Any] = field(default_factory=dict)


def resident_bytes() -> int:
    """Return the memory this process holds now."""
    return status_bytes("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_bytes() -> int:
    """Return the most memory this process has held since `forget_peak`; since its start where that cannot be reset."""
    return status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Let `peak_bytes` count from now on (Linux; elsewhere it goes on counting from the start)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def status_bytes(name: str, process: int | str = "self") -> int:
    """Return the bytes that Linux reports under `name` (VmRSS, VmHWM) for a process; 0 where it does not."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that matter, where they are installed."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def measured(run: Callable[[], Round]) -> dict[str, Any]:
    """Do one round and return what it took, as JSON values."""
    forget_peak()
    start = time.perf_counter()
    done = run()
    seconds = time.perf_counter() - start if done.seconds is None else done.seconds
    return {
        "seconds": seconds,
        "items": done.items,
        "tokens": done.tokens,
        "flops": done.flops,
        "peak_bytes": peak_bytes(),
        "extra": done.extra,
    }


def serve(module: str, requests: IO[str], answers: IO[str]) -> None:
    """Prepare `module` with the settings of the first line, then answer every further line with a round."""

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    settings = json.loads(requests.readline())["settings"]
    start = time.perf_counter()
    prepared: Prepared = importlib.import_module(module).prepare(settings)
    ready = {"prepare_seconds": time.perf_counter() - start, "resident_bytes": resident_bytes(), "versions": versions()}
    answer(ready | {"facts": prepared.facts})
    for _ in requests:
        answer(measured(prepared.run))


def main() -> None:
    """Serve on what were standard input and output; from here on prints go to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, answers)


if __name__ == "__main__":
    main()
