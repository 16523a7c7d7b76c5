"""Which items a step of a training sees: passes over shuffled blocks, so that a position in the data says all.

Items of a block (the pairs of a prompt) stay together; a batch is counted in items all the same, so a block at its
end may go on in the next batch. Memory: 8 bytes an item and pass in use.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Blocks:
    """Items by block, and the blocks as they first appear. `blocks` holds a value for each item; equal ones are a block."""

    def __init__(self, blocks: ArrayLike) -> None:
        _, first, codes = np.unique(np.asarray(blocks), return_index=True, return_inverse=True)
        place = np.empty_like(first)
        place[np.argsort(first)] = np.arange(len(first))
        codes = place[codes]
        self.items = np.argsort(codes, kind="stable")
        self.sizes = np.bincount(codes)
        self.starts = np.cumsum(self.sizes) - self.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Yield the items of each block, in order."""
        return (self.items[start : start + size] for start, size in zip(self.starts, self.sizes, strict=True))


class DataOrder:
    """The order of items: each pass a permutation of the blocks by (seed, pass)."""

    def __init__(self, blocks: ArrayLike, seed: int) -> None:
        self._blocks = Blocks(blocks)
        self._seed = seed
        self._pass = lru_cache(maxsize=2)(self._permuted)

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        blocks = self._blocks
        order = np.random.default_rng([self._seed, epoch]).permutation(len(blocks))
        sizes = blocks.sizes[order]
        shift = np.repeat(blocks.starts[order] - (np.cumsum(sizes) - sizes), sizes)
        found: NDArray[np.int64] = blocks.items[shift + np.arange(len(blocks.items))]
        return found

    def span(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return (index, epoch) of the positions from `start` to before `stop`."""
        size = len(self._blocks.items)
        return [(int(self._pass(p // size)[p % size]), p // size) for p in range(start, stop)]


def num_items(count: int, settings: Mapping[str, Any]) -> int:
    """Return how many items `epochs` passes over `count` items are, at least one."""
    items: float = settings["epochs"] * count
    return max(1, round(items))


def num_steps(count: int, settings: Mapping[str, Any]) -> int:
    """Return how many steps a training on `count` items takes; the last may hold fewer than a batch."""
    steps: int = math.ceil(num_items(count, settings) / settings["batch_size"])
    limit: int = settings["max_steps"]
    return min(steps, limit) if limit else steps
