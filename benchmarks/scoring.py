"""Measure scoring: 64 candidates of a prompt against its baseline by a decoder-only reward model, against plain batches.

    python -m benchmarks.scoring --model FOLDER --preferences FILE [--oasst FILE] [--only NAME …]

The peer is transformers: padded batches, sorted by length, the output layer at the last token only; it is given the best
of several batch sizes and both sides of padding, tried on a quarter of the comparisons. Both sides compute logit P(A) and the mass outside of A and B, in float32.
Results, each for one order and for both: scoring_hh and, with --oasst, scoring_oasst, contexts and responses of exactly the
median lengths of the file; scoring_382_34, of 382 and 34 tokens (TL;DR).
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.comparisons import Ids, both_orders, lengths, template, tree_tokens
from benchmarks.harness import Side, compare, finish, parser_of_cases, peer_python, require, tuned, wanted
from benchmarks.texts import Group, cut_groups, preference_rows, tokenizer_of

CANDIDATES = 64
ARRANGEMENTS = [
    {"rows": 8, "padding": "right"},
    {"rows": 16, "padding": "right"},
    {"rows": 64, "padding": "right"},
    {"rows": 16, "padding": "left"},
]
TARGETS = {
    "scoring_hh_both": {"speedup": 2.1},
    "scoring_hh_one": {"speedup": 3.1},
    "scoring_382_34_both": {"speedup": 5.0},
}


CASES = tuple(f"scoring_{texts}_{orders}" for texts in ("hh", "382_34", "oasst") for orders in ("both", "one"))


def main() -> None:
    """Measure and write the results."""
    options = parser_of_cases(__doc__, CASES).parse_args()
    require(options, "model", "preferences")
    finish([row(name, group_of(name, options), options) for name in wanted(CASES, options)], options)


def group_of(name: str, options: argparse.Namespace) -> Group:
    """Return the prompt of a result, with 64 candidates and a baseline."""
    pairs = plain_pairs(options.model, options.oasst if "oasst" in name else options.preferences)
    context, response = (382, 34) if "382_34" in name else medians(pairs)
    (group,) = cut_groups(
        pairs,
        prompts=1,
        responses=CANDIDATES + 1,
        prompt_tokens=context,
        response_tokens=response + 1,
        seed=options.seed,
    )
    return group


def medians(pairs: list[Group]) -> tuple[int, int]:
    """Return the median lengths of contexts and of responses, without their ends."""
    context = statistics.median(len(pair["prompt"]) for pair in pairs)
    return round(context), round(statistics.median(len(ids) - 1 for pair in pairs for ids in pair["responses"]))


def plain_pairs(model: Path, file: Path) -> list[Group]:
    """Return the pairs of a file as groups of two responses, the context as the reward model reads it: without a template."""
    from rso_core.templates import data_ids, response_ids

    tokenizer, _ = tokenizer_of(model)
    return [
        {
            "prompt": data_ids(tokenizer, row["prompt"]),
            "responses": [response_ids(tokenizer, row[side]) for side in ("chosen", "rejected")],
        }
        for row in preference_rows(file)
    ]


def row(name: str, group: Group, options: argparse.Namespace) -> dict[str, Any]:
    """Return the result of one row."""
    from rso_core.templates import label_ids

    sequences: list[Ids] = both_orders(template(options.model), group, orders=2 if name.endswith("_both") else 1)
    tokenizer, family = tokenizer_of(options.model)
    settings = {"model": str(options.model), "sequences": sequences, "labels": list(label_ids(tokenizer, family))}
    peer = Side("transformers, batches sorted by length", "benchmarks.peers.scoring", settings, python=peer_python())
    return compare(
        name,
        Side("rso_core", "benchmarks.scoring_ours", settings),
        tuned(peer, ARRANGEMENTS, options, name=name, small={"sequences": sequences[: len(sequences) // 4]}),
        options,
        lengths=lengths(group, sequences),
        token_bound=sum(map(len, sequences)) / tree_tokens(sequences),
        target={"bound_share": 0.7, "utilisation": 0.4, **TARGETS.get(name, {})},
        item="comparisons",
    )


if __name__ == "__main__":
    main()
