"""Comparisons of a context's candidates with a baseline, as token ids in the form the reward-ranking model reads."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.texts import Group

Ids = list[int]


def template(model: Path) -> dict[str, Ids]:
    """Return the token ids of the reward text's own parts, by what follows them, and of the cue."""
    from benchmarks.texts import tokenizer_of
    from rso_core.templates import PREFERRED_CUE, data_ids

    tokenizer, _ = tokenizer_of(model)
    parts = {"context": "[CONTEXT] ", "first": " [RESPONSE A] ", "second": " [RESPONSE B] ", "cue": PREFERRED_CUE}
    return {name: data_ids(tokenizer, text) for name, text in parts.items()}


def comparison(parts: dict[str, Ids], context: Ids, first: Ids, second: Ids) -> Ids:
    """Return one input."""
    return [*parts["context"], *context, *parts["first"], *first, *parts["second"], *second, *parts["cue"]]


def both_orders(parts: dict[str, Ids], group: Group, *, orders: int) -> list[Ids]:
    """Return the comparisons of a prompt's candidates with its last response, the baseline.

    One order: the baseline first, as a decoder-only model's reward is defined without averaging. Both: that, and the
    candidate first. Ends of sequences are left out: the reward text has none.
    """
    *candidates, baseline = [ids[:-1] for ids in group["responses"]]
    found = [comparison(parts, group["prompt"], baseline, one) for one in candidates]
    if orders > 1:
        found += [comparison(parts, group["prompt"], one, baseline) for one in candidates]
    return found


def tree_tokens(sequences: Sequence[Ids]) -> int:
    """Return how many tokens there are when what sequences begin with is counted once."""
    ordered = sorted(sequences)
    shared = sum(_shared(one, other) for one, other in itertools.pairwise(ordered))
    return sum(map(len, sequences)) - shared


def attended_pairs(sequences: Sequence[Ids]) -> int:
    """Return how many (query, key) pairs see each other in the tree of the sequences: each token all of its path."""
    ordered = sorted(sequences)
    starts = [0, *(_shared(one, other) for one, other in itertools.pairwise(ordered))]
    return sum(_triangle(len(ids)) - _triangle(start) for ids, start in zip(ordered, starts, strict=True))


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


def _shared(one: Ids, other: Ids) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def lengths(group: Group, sequences: Sequence[Ids]) -> dict[str, Any]:
    """Return the lengths in tokens that a row states."""
    responses = [len(ids) - 1 for ids in group["responses"]]
    return {
        "candidates": len(responses) - 1,
        "prompt_tokens": len(group["prompt"]),
        "response_tokens": statistics.median(responses),
        "comparisons": len(sequences),
        "comparison_tokens": statistics.median(map(len, sequences)),
    }
