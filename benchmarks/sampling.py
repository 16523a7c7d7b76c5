"""Measure sampling: 64 candidates of up to 64 tokens for each prompt, against transformers' `generate`.

    python -m benchmarks.sampling --model FOLDER --preferences FILE [--oasst FILE] [--only NAME …]

Both sides draw from the same distribution (temperature 0.7, top-k 40) for the same prompts, and count the tokens of
responses up to and including their end. `generate` is given the best of several arrangements. Results: sampling_200,
prompts of exactly 200 tokens; sampling_hh and, with --oasst, sampling_oasst, prompts of the files as they are.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Side, compare, finish, parser_of_cases, peer_python, require, tuned, wanted
from benchmarks.texts import cut_groups, pairs_as_groups, tokenizer_of
from rso_core.config import SamplingConfig

SETTINGS = {"responses": 64, "tokens": 64, "temperature": 0.7, "top_k": 40}
ARRANGEMENTS: list[dict[str, Any]] = [
    {"together": 1, "cache": None},
    {"together": 2, "cache": None},
    {"together": 1, "cache": "static"},
]


def main() -> None:
    """Measure and write the results."""
    made = parser_of_cases(__doc__, CASES)
    made.add_argument("--prompts", type=int, default=4, help="prompts a round (default 4)")
    made.add_argument(
        "--rows",
        type=int,
        default=SamplingConfig().batch_size,
        help="sequences that ours decodes at once (default: the product's)",
    )
    options = made.parse_args()
    require(options, "model", "preferences")
    finish([row(name, CASES[name](options), options) for name in wanted(CASES, options)], options)


def exact_prompts(options: argparse.Namespace) -> list[list[int]]:
    """Return real prompts cut to exactly 200 tokens."""
    pairs = pairs_as_groups(options.model, options.preferences)
    cut = cut_groups(
        pairs, prompts=options.prompts, responses=1, prompt_tokens=200, response_tokens=64, seed=options.seed
    )
    return [group["prompt"] for group in cut]


def some_prompts(file: Path, options: argparse.Namespace) -> list[list[int]]:
    """Return distinct prompts of a file as they are, the same for every run with a seed."""
    distinct = sorted({tuple(pair["prompt"]) for pair in pairs_as_groups(options.model, file)})
    return [list(ids) for ids in random.Random(options.seed).sample(distinct, options.prompts)]  # noqa: S311 - no secret


CASES: dict[str, Callable[[argparse.Namespace], list[list[int]]]] = {
    "sampling_200": exact_prompts,
    "sampling_hh": lambda options: some_prompts(options.preferences, options),
    "sampling_oasst": lambda options: some_prompts(options.oasst, options),
}


def row(name: str, prompts: list[list[int]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the result of one row."""
    tokenizer, _ = tokenizer_of(options.model)
    settings = SETTINGS | {"model": str(options.model), "prompts": prompts}
    ours = Side("rso_core", "benchmarks.sampling_ours", settings | {"rows": options.rows})
    theirs = settings | {"eos": tokenizer.eos_token_id}
    peer = Side("transformers generate", "benchmarks.peers.sampling", theirs, python=peer_python())
    result = compare(
        name,
        ours,
        tuned(peer, [one for one in ARRANGEMENTS if one["together"] <= len(prompts)], options, name=name),
        options,
        lengths=described(prompts),
        token_bound=None,
        target={"speedup": 3, "aim": 4},
        item="response tokens",
    )
    rounds = result["rounds"]
    return result | {
        "token_bound": _tokens_an_item(rounds, "peer") / _tokens_an_item(rounds, "ours"),
        "lengths": result["lengths"]
        | {"response_tokens_mean": statistics.fmean(found["ours"]["extra"]["mean_tokens"] for found in rounds)},
    }


def _tokens_an_item(rounds: Sequence[dict[str, Any]], side: str) -> float:
    return statistics.fmean(found[side]["tokens"] / found[side]["items"] for found in rounds)


def described(prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return counts and lengths for the result file."""
    lengths = [len(prompt) for prompt in prompts]
    return {
        "prompts": len(prompts),
        "responses_per_prompt": SETTINGS["responses"],
        "response_tokens_limit": SETTINGS["tokens"],
        "prompt_tokens": {
            "median": statistics.median(lengths),
            "mean": statistics.fmean(lengths),
            "max": max(lengths),
        },
    }


if __name__ == "__main__":
    main()
