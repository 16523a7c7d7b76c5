"""Measure how sampling and scoring scale over workers: two workers of one thread each, against one.

    python -m benchmarks.two_workers --model FOLDER --preferences FILE [--only NAME …]

A worker is a process that does what a shard's runner does, on prompts of its own. Two do half of the prompts each, at the
same time; the time is until both have finished. Results: two_workers_sampling, 64 candidates of up to 32 tokens for each
prompt; two_workers_scoring, 64 candidates against a baseline in one order; two_workers_matmul, products alone at the
shapes of the model, which tells what the machine's two processors give at most.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from benchmarks.comparisons import both_orders, template
from benchmarks.harness import Side, Works, alternate, finish, parser, portable, provenance, require, started, summary
from benchmarks.sampling import SETTINGS, described, some_prompts
from benchmarks.scoring import CANDIDATES, medians, plain_pairs
from benchmarks.texts import cut_groups

_TARGET = 1.8
_TOKENS = 32  # of a response


class Together:
    """Workers that do a round at the same time."""

    def __init__(self, workers: Sequence[Works]) -> None:
        self._workers = workers

    def round(self) -> dict[str, Any]:
        """Return what all did, and the time until the last had finished."""
        start = time.perf_counter()
        with ThreadPoolExecutor(len(self._workers)) as pool:
            parts = list(pool.map(lambda worker: worker.round(), self._workers))
        seconds = time.perf_counter() - start
        total = {name: sum(part[name] for part in parts) for name in ("items", "tokens", "flops", "peak_bytes")}
        return total | {"seconds": seconds, "seconds_each": [part["seconds"] for part in parts]}


def main() -> None:
    """Measure and write the results."""
    made = parser(__doc__)
    made.add_argument("--prompts", type=int, default=2, help="prompts a round, an even number (default 2)")
    made.add_argument("--only", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    made.set_defaults(threads=1)
    options = made.parse_args()
    require(options, "model", "preferences")
    finish([scaling(name, CASES[name](options), options) for name in options.only], options)


def scaling(name: str, case: "Case", options: argparse.Namespace) -> dict[str, Any]:
    """Return the result of two workers with half of the work each, against one with all of it."""
    module, halves, whole, lengths = case
    with ExitStack() as stack:
        one, *two = [
            stack.enter_context(started(Side("a worker", module, settings), options)) for settings in (whole, *halves)
        ]
        sides = (Together(two), one)
        for _ in range(options.warmup):
            for side in sides:
                side.round()
        rounds = [alternate(sides, number, name) for number in range(options.rounds)]
    told = {key: portable(value) for key, value in whole.items() if key not in ("prompts", "sequences")}
    described = {"module": module, "settings": told, **one.ready}
    return {
        "name": name,
        **provenance(options),
        "lengths": lengths,
        "token_bound": None,
        "target": {"speedup": _TARGET},
        "ours": described | {"name": "two workers of one thread"},
        "peer": described | {"name": "one worker of one thread"},
        "rounds": rounds,
        **summary(rounds),
    }


Case = tuple[str, list[dict[str, Any]], dict[str, Any], dict[str, Any]]  # module, half and whole settings, lengths


def _sampling(options: argparse.Namespace) -> Case:
    prompts = some_prompts(options.preferences, options)
    settings = SETTINGS | {"model": str(options.model), "rows": SETTINGS["responses"], "tokens": _TOKENS}
    halves = [settings | {"prompts": part} for part in (prompts[::2], prompts[1::2])]
    return (
        "benchmarks.sampling_ours",
        halves,
        settings | {"prompts": prompts},
        described(prompts) | {"response_tokens_limit": _TOKENS},
    )


def _scoring(options: argparse.Namespace) -> Case:
    pairs = plain_pairs(options.model, options.preferences)
    context, response = medians(pairs)
    drawn: dict[str, Any] = {"prompts": options.prompts, "responses": CANDIDATES + 1, "seed": options.seed}
    groups = cut_groups(pairs, prompt_tokens=context, response_tokens=response + 1, **drawn)
    parts = template(options.model)
    read = [
        [ids for group in some for ids in both_orders(parts, group, orders=1)] for some in (groups[::2], groups[1::2])
    ]
    halves = [{"model": str(options.model), "sequences": sequences} for sequences in read]
    lengths = {"prompts": len(groups), "prompt_tokens": context, "response_tokens": response}
    return "benchmarks.scoring_ours", halves, halves[0] | {"sequences": [*read[0], *read[1]]}, lengths


def _matmul(options: argparse.Namespace) -> Case:
    settings = {"model": str(options.model), "tokens": 512}
    return "benchmarks.matmul_side", [settings | {"passes": 4}] * 2, settings | {"passes": 8}, {}


CASES = {"two_workers_sampling": _sampling, "two_workers_scoring": _scoring, "two_workers_matmul": _matmul}


if __name__ == "__main__":
    main()
