"""Reward-model training: human pairs a second of one step, against straightforward transformers code.

Results: reward_training, of pairs drawn one by one; reward_training_oasst (with --oasst FILE), of prompts drawn with all of
their pairs, as ranked replies have them. A step is 32 human pairs as the reward-ranking model reads them, at the lengths of
the file: the same texts, the same loss (cross-entropy of the label over the vocabulary) and the same optimizer on both sides. The peer
pads on the left; its micro-batch, and whether it makes logits at every position or at the last, are the fastest of those tried.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from benchmarks.comparisons import attended_pairs, tree_tokens
from benchmarks.flops import flops, matrices_of
from benchmarks.harness import Side, compare, finish, parser_of_cases, peer_python, require, tuned, wanted
from benchmarks.texts import preference_rows, tokenizer_of

_PAIRS = 32
_RATE = 1e-6
_MICRO_PAIRS = (4, 2, 8)
_MAX_LENGTH = 2048  # tokens of a comparison, as the recipe for real preferences has
Row = dict[str, Any]


def main() -> None:
    """Measure what --only names (default: everything that the given files allow)."""
    options = parser_of_cases(__doc__, _CASES).parse_args()
    require(options, "model", "preferences")
    finish([_measured(name, _CASES[name](options), options) for name in wanted(_CASES, options)], options)


def _single_pairs(options: argparse.Namespace) -> list[Row]:
    return random.Random(options.seed).sample(preference_rows(options.preferences), _PAIRS)  # noqa: S311 - no secret


def _whole_prompts(options: argparse.Namespace) -> list[Row]:
    """Return the pairs of prompts that have several, until there are enough."""
    require(options, "oasst")
    ordered = sorted(preference_rows(options.oasst), key=lambda row: row["prompt"])
    prompts = [found for _, rows in groupby(ordered, key=lambda row: row["prompt"]) if len(found := list(rows)) > 1]
    random.Random(options.seed).shuffle(prompts)  # noqa: S311 - no secret
    return [row for rows in prompts for row in rows][:_PAIRS]


_CASES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "reward_training": _single_pairs,
    "reward_training_oasst": _whole_prompts,
}


def _measured(name: str, rows: Sequence[Row], options: argparse.Namespace) -> dict[str, Any]:
    examples, lengths = _examples(rows, options)
    sequences = [example["ids"] for example in examples]
    tokens, together = sum(map(len, sequences)), tree_tokens(sequences)
    ours = {
        "rows": [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows],
        "tokens": together,
        "flops": flops(
            matrices_of(options.model),
            tokens=together,
            head_tokens=len(rows),
            attended=attended_pairs(sequences),
            training=True,
        ),
        "tokens_per_forward": 8 * together // len(rows),
        "reward": {"learning_rate": _RATE, "max_length": _MAX_LENGTH},
    }
    theirs = {"examples": examples, "optimizer": "adafactor", "learning_rate": _RATE}
    peer = Side("transformers", "benchmarks.peers.plain_reward", {"model": str(options.model), **theirs}, peer_python())
    return compare(
        name,
        Side("rso_core", "benchmarks.reward_ours", {"model": str(options.model), **ours}),
        _tuned(name, peer, options),
        options,
        lengths=lengths,
        token_bound=tokens / together,
        target={"speedup": 1.5},
        item="pairs",
    )


def _tuned(name: str, peer: Side, options: argparse.Namespace) -> Side:
    candidates: list[dict[str, Any]] = [{"micro_pairs": size, "logits": "last"} for size in _MICRO_PAIRS]
    candidates.append({"micro_pairs": _MICRO_PAIRS[0], "logits": "all"})
    few = peer.settings["examples"][:16]
    return tuned(peer, candidates, options, name=name, small={"examples": few})


def _examples(rows: Sequence[Row], options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return comparisons with the winner first or second in turn, as token ids with the label's, and their lengths."""
    from rso_core.templates import data_ids, label_ids, reward_input_ids

    tokenizer, family = tokenizer_of(options.model)
    labels = label_ids(tokenizer, family)
    examples, responses = [], []
    for place, row in enumerate(rows):
        turned = place % 2
        first, second = (row["rejected"], row["chosen"]) if turned else (row["chosen"], row["rejected"])
        shown = {"context": row["prompt"], "first": first, "second": second}
        ids = reward_input_ids(tokenizer, family, task="dialogue", max_length=_MAX_LENGTH, **shown).ids
        examples.append({"ids": ids, "label": labels[turned]})
        responses += [len(data_ids(tokenizer, text)) for text in (first, second)]
    counts = [len(example["ids"]) for example in examples]
    lengths = {
        "pairs": len(rows),
        "prompts": len({row["prompt"] for row in rows}),
        "prompt_tokens": {"median": statistics.median(counts), "max": max(counts)},  # the whole comparison
        "response_tokens": {"median": statistics.median(responses), "max": max(responses)},
    }
    return examples, lengths


if __name__ == "__main__":
    main()
