"""Token sequences as a forest of what they begin with in common, and how many of them are read at once.

Comparisons of one prompt begin with its context, and those of one order with its baseline too: a tree holds each
beginning once. What sequences share is found in their token ids, never in their texts.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rso_core.packed_layout import Segment

Ids = NDArray[np.int32]
WORTH = 32  # tokens that a segment of its own must save; fewer take less time than its own attention does
_DEEPEST = 32  # levels of beginnings that are looked for


def shared_tokens(one: Ids, other: Ids) -> int:
    """Return how many tokens both begin with, at least one of each left out."""
    most = min(len(one), len(other)) - 1
    differing = np.flatnonzero(one[:most] != other[:most])
    return int(differing[0]) if len(differing) else most


def tree_tokens(sequences: Sequence[Ids]) -> int:
    """Return how many tokens sequences are as a tree; those that begin alike must stand together."""
    return sum(map(len, sequences)) - sum(shared_tokens(one, other) for one, other in pairwise(sequences))


def packed_batches(sequences: Sequence[Ids], budget: int) -> Iterator[range]:
    """Yield which of the sequences to read at once: about `budget` tokens as a tree, or one sequence.

    Sequences that begin alike must stand together, as they do when sorted: then each adds to a tree just what it does
    not share with the one before it.
    """
    start, size = 0, 0
    for index, ids in enumerate(sequences):
        added = len(ids) - (shared_tokens(sequences[index - 1], ids) if index > start else 0)
        if index > start and size + added > budget:
            yield range(start, index)
            start, size, added = index, 0, len(ids)
        size += added
    if sequences:
        yield range(start, len(sequences))


def padded_batches(lengths: Sequence[int], budget: int) -> Iterator[range]:
    """Yield which of sequences sorted by length to read at once: at most `budget` tokens with padding, or one."""
    start = 0
    for index, longest in enumerate(lengths):
        if index > start and (index + 1 - start) * longest > budget:
            yield range(start, index)
            start = index
    if lengths:
        yield range(start, len(lengths))


def forest_of(sequences: Sequence[Ids], *, worth: int = WORTH) -> list[Segment]:
    """Return trees whose paths are the sequences, in order; a beginning is shared where that saves `worth` tokens.

    Sequences that begin alike must stand together. Every sequence ends with a segment of its own.
    """
    shared = [shared_tokens(one, other) for one, other in pairwise(sequences)]
    return _Trees(sequences, shared, worth).after(0, len(sequences), depth=0, level=0)


class _Trees:
    def __init__(self, sequences: Sequence[Ids], shared: Sequence[int], worth: int) -> None:
        self._sequences, self._shared, self._worth = sequences, shared, worth  # shared[i]: by i and i + 1

    def after(self, start: int, end: int, *, depth: int, level: int) -> list[Segment]:
        """Return what sequences `start` … `end` − 1 hold beyond their first `depth` tokens."""
        if end - start <= 1 or level == _DEEPEST:
            return [Segment(self._sequences[i][depth:].tolist()) for i in range(start, end)]
        together = min(self._shared[start : end - 1])
        if (together - depth) * (end - start - 1) >= self._worth:
            beginning = self._sequences[start][depth:together].tolist()
            return [Segment(beginning, self.after(start, end, depth=together, level=level + 1))]
        cuts = [start, *(i + 1 for i in range(start, end - 1) if self._shared[i] == together), end]
        return [
            part for first, last in pairwise(cuts) for part in self.after(first, last, depth=depth, level=level + 1)
        ]
