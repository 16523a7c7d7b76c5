"""Measure what the processor can do: matrix products at a model's own shapes, and the best at any shape.

    python -m benchmarks.matmul --model FOLDER [--tokens 64 128 512 1024 2048 8192]

For each number of tokens in a forward pass: operations per second of a forward pass's products (every linear layer, as
often as the model has it, and the output layer), and of a training pass's (those, and for each the gradients of its
input and of its weights). The peak is the best of square products. Best of `--rounds`; the roof of the benchmarks.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from benchmarks.flops import Matrices, matrices_of
from benchmarks.harness import calibration_seconds, dtype, parser, provenance, require, save
from benchmarks.worker import versions

SQUARES = (1024, 2048, 4096)
_LEAST_SECONDS = 0.05


def main() -> None:
    """Measure and write `matmul.json`."""
    made = parser(__doc__)
    made.add_argument("--tokens", type=int, nargs="+", default=[64, 128, 512, 1024, 2048, 8192])
    made.add_argument("--squares", type=int, nargs="+", default=list(SQUARES))
    options = made.parse_args()
    require(options, "model")
    result = measure(matrices_of(options.model), options)
    save(result, options.results)
    print(json.dumps({"name": result["name"], "dtypes": result["dtypes"]}))


def measure(matrices: Matrices, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of each dtype, in operations per second; with `--dtype`, of that one only."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    both = ["bfloat16", "float32"] if dtype(options) == "bfloat16" else ["float32"]
    kinds = both if options.dtype == "auto" else [options.dtype]
    found = {kind: _of_dtype(matrices, getattr(torch, kind), options) for kind in kinds}
    return {
        "name": "matmul",
        **provenance(options),
        "versions": versions(),
        "calibration_seconds": calibration_seconds(),
        "dtypes": found,
    }


def _of_dtype(matrices: Matrices, kind: Any, options: argparse.Namespace) -> dict[str, Any]:
    shapes = Counter(matrices.layers) + Counter([matrices.head])
    squares = {str(size): 2 * size**3 / _seconds((size, size, size), kind, options.rounds) for size in options.squares}
    rows = {}
    for tokens in options.tokens:
        forward = [((tokens, columns, rows_), count) for (rows_, columns), count in shapes.items()]
        rows[str(tokens)] = {
            "forward": _rate(forward, kind, options.rounds),
            "training": _rate([(turned, n) for shape, n in forward for turned in _turned(shape)], kind, options.rounds),
        }
    return {"peak": max(squares.values()), "squares": squares, "tokens": rows}


def _turned(shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Return a product m × k × n, and the two that its gradients need."""
    m, k, n = shape
    return [(m, k, n), (m, n, k), (n, m, k)]


def _rate(products: list[tuple[tuple[int, int, int], int]], kind: Any, rounds: int) -> float:
    """Return operations per second of products m × k × n, each done `count` times."""
    operations = sum(2 * m * k * n * count for (m, k, n), count in products)
    seconds = sum(_seconds(shape, kind, rounds) * count for shape, count in products)
    return operations / seconds


@cache
def _seconds(shape: tuple[int, int, int], kind: Any, rounds: int) -> float:
    """Return the best time of a product m × k × n; the weight is read as a linear layer reads it."""
    import torch

    m, k, n = shape
    left, right = torch.randn(m, k, dtype=kind), torch.randn(n, k, dtype=kind)
    with torch.inference_mode():
        return min(_timed(lambda: torch.nn.functional.linear(left, right)) for _ in range(rounds))


def _timed(work: Callable[[], object]) -> float:
    """Return the mean time of `work`, repeated until it can be told from the clock's grain."""
    work()
    times, start = 0, time.perf_counter()
    while time.perf_counter() - start < _LEAST_SECONDS:
        work()
        times += 1
    return (time.perf_counter() - start) / times


if __name__ == "__main__":
    main()
