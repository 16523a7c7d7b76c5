"""A batch cut into what goes through the model at once: items of a prompt together, at most so many tokens or items.

The gradient of a step is the same however its batch is cut; memory and speed are not. Nothing here knows a model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import ArrayLike, NDArray

Place = tuple[int, int]  # (index of an item, pass over the data)


@dataclass(frozen=True)
class Budget:
    """What one forward pass may hold; 0 is no limit. A single item is never cut, whatever its length."""

    items: int = 0
    tokens: int = 0

    def holds(self, items: int, tokens: int) -> bool:
        """Return whether so much goes through the model at once."""
        return (not self.items or items <= self.items) and (not self.tokens or tokens <= self.tokens)

    def halved(self) -> "Budget":
        """Return half of it."""
        return Budget(items=(self.items + 1) // 2, tokens=(self.tokens + 1) // 2)


class Sizes:
    """The tokens of items: `lengths` of their own, `shared` what items with an equal `blocks` have in common.

    All are [items]. What is shared is read once for all items of a block that go through the model together.
    """

    def __init__(self, lengths: ArrayLike, shared: ArrayLike | None = None, blocks: ArrayLike | None = None) -> None:
        self.lengths: NDArray[np.int64] = np.asarray(lengths, dtype=np.int64)
        self.shared: NDArray[np.int64] = (
            np.zeros_like(self.lengths) if shared is None else np.asarray(shared, dtype=np.int64)
        )
        self.blocks: NDArray[np.int64] = np.arange(len(self.lengths))
        if blocks is not None:
            self.blocks = np.unique(np.asarray(blocks), return_inverse=True)[1]

    def tokens(self, items: Sequence[int]) -> int:
        """Return how many tokens a forward pass over items of one block reads."""
        return int(self.shared[items[0]] + self.lengths[items].sum())

    def longest(self, budget: Budget, count: int) -> list[int]:
        """Return `count` items at most that fill a micro-batch: those of the largest blocks that the budget still holds."""
        found: list[int] = []
        held = 0
        for index in self._largest_first(count).tolist():
            if len(found) == count:
                break
            new_block = not found or self.blocks[index] != self.blocks[found[-1]]
            tokens = int(self.lengths[index] + (self.shared[index] if new_block else 0))
            if not found or budget.holds(len(found) + 1, held + tokens):
                found.append(index)
                held += tokens
        return found

    @property
    def longest_item(self) -> int:
        """Return the tokens of the longest item with all that it needs."""
        return int((self.lengths + self.shared).max())

    def _largest_first(self, count: int) -> NDArray[np.int64]:
        """Return the items of the largest blocks, each block's longest first: as many as two micro-batches can want."""
        own = np.bincount(self.blocks, weights=self.lengths)
        totals = own[self.blocks] + self.shared
        return np.lexsort((-self.lengths, self.blocks, -totals))[: 2 * count]

    def together(self, items: Sequence[int]) -> int:
        """Return how many tokens items of several blocks are, those of a block standing together."""
        return sum(self.tokens(list(run)) for _, run in groupby(items, key=lambda i: int(self.blocks[i])))


def micro_batches(batch: Sequence[Place], sizes: Sizes, budget: Budget, *, at_least: int = 1) -> list[list[Place]]:
    """Return a batch in pieces that the budget holds, the largest first: if one is too large, it is the first.

    About as few as go, of about equal tokens; `at_least` so many where there are so many blocks. Items of a block that
    stand together stay together, unless the budget does not hold them.
    """
    parts = _largest_first((part for block in _runs(batch, sizes) for part in _cut(block, sizes, budget)), sizes)
    filled = _one_after_the_other(parts, budget)
    for count in range(max(at_least, _fewest(parts, budget)), max(at_least, len(filled)) + 1):
        if (pieces := _spread(parts, count, budget)) is not None:
            return [items for _, items in sorted(pieces, key=lambda piece: -piece[0]) if items]
    return filled


def shares(batch: Sequence[Place], sizes: Sizes, count: int) -> list[list[Place]]:
    """Return a batch in `count` shares of about equal tokens, blocks whole: what each of several processes computes."""
    return [items for _, items in _spread(_largest_first(_runs(batch, sizes), sizes), count, Budget()) or []]


Part = tuple[int, list[Place]]  # (tokens, items)


def _largest_first(parts: Iterable[list[Place]], sizes: Sizes) -> list[Part]:
    return sorted(((_tokens(part, sizes), part) for part in parts), key=lambda part: -part[0])


def _fewest(parts: Sequence[Part], budget: Budget) -> int:
    """Return a number of pieces of which fewer cannot hold the parts; one that is too large has a piece of its own."""
    items, tokens = sum(len(part) for _, part in parts), [tokens for tokens, _ in parts]
    by_items = -(-items // budget.items) if budget.items else 1
    by_tokens = -(-sum(min(n, budget.tokens) for n in tokens) // budget.tokens) if budget.tokens else 1
    return max(by_items, by_tokens)


def _one_after_the_other(parts: Sequence[Part], budget: Budget) -> list[list[Place]]:
    """Return parts in pieces, each filled before the next one begins."""
    found: list[list[Place]] = []
    held = (0, 0)
    for tokens, part in parts:
        held = (held[0] + len(part), held[1] + tokens)
        if found and budget.holds(*held):
            found[-1] += part
        else:
            found.append(list(part))
            held = (len(part), tokens)
    return found


def _spread(parts: Sequence[Part], count: int, budget: Budget) -> list[Part] | None:
    """Return parts in `count` pieces, each part in the emptiest that holds it; None where one finds no such piece."""
    held = [0] * count
    found: list[list[Place]] = [[] for _ in range(count)]
    for tokens, part in parts:
        fitting = (i for i in range(count) if not found[i] or budget.holds(len(found[i]) + len(part), held[i] + tokens))
        emptiest = min(fitting, key=held.__getitem__, default=None)
        if emptiest is None:
            return None
        held[emptiest] += tokens
        found[emptiest] += part
    return list(zip(held, found, strict=True))


def _runs(batch: Sequence[Place], sizes: Sizes) -> list[list[Place]]:
    """Return the items that stand together and have one block."""
    return [list(run) for _, run in groupby(batch, key=lambda place: (int(sizes.blocks[place[0]]), place[1]))]


def _cut(block: Sequence[Place], sizes: Sizes, budget: Budget) -> Iterator[list[Place]]:
    """Yield the items of a block in pieces that the budget holds, one item at least."""
    piece: list[Place] = []
    for place in block:
        if piece and not budget.holds(len(piece) + 1, _tokens([*piece, place], sizes)):
            yield piece
            piece = []
        piece.append(place)
    yield piece


def _tokens(places: Sequence[Place], sizes: Sizes) -> int:
    return sizes.tokens([index for index, _ in places])
