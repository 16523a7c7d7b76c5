"""Reward-model training: human pairs a second of one step, against straightforward transformers code.

Result: reward_training. A step is 32 human pairs as the reward-ranking model reads them, at the lengths of the file: the
same texts, the same loss (cross-entropy of the label over the vocabulary) and the same optimizer on both sides. The peer
pads on the left; its micro-batch, and whether it makes logits at every position or at the last, are the fastest of those tried.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.flops import flops, matrices_of
from benchmarks.harness import Side, compare, finish, parser, peer_python, require, tuned
from benchmarks.texts import preference_rows, tokenizer_of

_PAIRS = 32
_RATE = 1e-6
_MICRO_PAIRS = (8, 4, 16)


def main() -> None:
    """Measure and write `reward_training.json`."""
    made = parser(__doc__)
    made.add_argument("--untuned", action="store_true", help="take the peer's first setting instead of trying all")
    options = made.parse_args()
    require(options, "model", "preferences")
    finish([_measured(options)], options)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    rows = random.Random(options.seed).sample(preference_rows(options.preferences), _PAIRS)  # noqa: S311 - no secret
    examples, lengths = _examples(rows, options)
    counts = [len(example["ids"]) for example in examples]
    ours = {
        "rows": [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows],
        "tokens": sum(counts),
        "flops": _flops(counts, options),
        "tokens_per_forward": 8 * sum(counts) // len(counts),
        "reward": {"learning_rate": _RATE},
    }
    theirs = {"examples": examples, "optimizer": "adafactor", "learning_rate": _RATE}
    peer = Side("transformers", "benchmarks.peers.plain_reward", {"model": str(options.model), **theirs}, peer_python())
    return compare(
        "reward_training",
        Side("rso_core", "benchmarks.reward_ours", {"model": str(options.model), **ours}),
        _tuned(peer, options),
        options,
        lengths=lengths,
        token_bound=1.0,  # nothing is shared: a comparison is read once by either side
        target={"speedup": 1.5},
        item="pairs",
    )


def _tuned(peer: Side, options: argparse.Namespace) -> Side:
    candidates: list[dict[str, Any]] = [{"micro_pairs": size, "logits": "last"} for size in _MICRO_PAIRS]
    candidates.append({"micro_pairs": _MICRO_PAIRS[0], "logits": "all"})
    if options.untuned:
        return replace(peer, settings=peer.settings | candidates[0])
    few = peer.settings["examples"][:16]
    return tuned(peer, candidates, options, name="reward_training", small={"examples": few})


def _examples(
    rows: Sequence[dict[str, Any]], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return comparisons with the winner first or second in turn, as token ids with the label's, and their lengths."""
    from rso_core.config import RewardConfig
    from rso_core.templates import data_ids, label_ids, reward_input_ids

    tokenizer, family = tokenizer_of(options.model)
    labels = label_ids(tokenizer, family)
    examples, responses = [], []
    for place, row in enumerate(rows):
        turned = place % 2
        first, second = (row["rejected"], row["chosen"]) if turned else (row["chosen"], row["rejected"])
        limit = RewardConfig().max_length
        shown: dict[str, Any] = {"context": row["prompt"], "first": first, "second": second, "max_length": limit}
        ids = reward_input_ids(tokenizer, family, task="dialogue", **shown).ids
        examples.append({"ids": ids, "label": labels[turned]})
        responses += [len(data_ids(tokenizer, text)) for text in (first, second)]
    counts = [len(example["ids"]) for example in examples]
    lengths = {
        "pairs": len(rows),
        "prompt_tokens": {"median": statistics.median(counts), "max": max(counts)},  # the whole comparison
        "response_tokens": {"median": statistics.median(responses), "max": max(responses)},
    }
    return examples, lengths


def _flops(counts: Sequence[int], options: argparse.Namespace) -> float:
    matrices = matrices_of(options.model)
    return sum(
        flops(matrices, tokens=count, head_tokens=1, attended=count * (count + 1) // 2, training=True)
        for count in counts
    )


if __name__ == "__main__":
    main()
