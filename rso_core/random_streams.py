"""Random numbers as a function of (seed, draw, column): many independent streams, computed at once.

SplitMix64 (Steele, Lea and Flood 2014; Vigna's public-domain constants) at a counter instead of a state. So one
prompt's numbers depend on that prompt's seed only, whatever batch or shard it is in; thousands of prompts are one
array operation; and the numbers cannot change with a library's version, which digests of artifacts rely on.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def random_bits(
    seeds: Sequence[int] | NDArray[np.uint64], draw: int, columns: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Return 64 random bits for each seed and column: shape [seeds, columns].

    `draw` tells apart the uses of one stream. Seeds are in [0, 2⁶⁴); draw and columns in [0, 2³²).
    """
    start = np.asarray(seeds, dtype=np.uint64)[:, None]
    counter = (np.uint64(draw) << np.uint64(32)) | np.asarray(columns, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2⁶⁴ is meant
        bits = start + (counter + np.uint64(1)) * _GAMMA
        bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
        bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return np.asarray(bits ^ (bits >> np.uint64(31)), dtype=np.uint64)


def uniforms(seeds: Sequence[int] | NDArray[np.uint64], draw: int, columns: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return numbers in [0, 1) with 53 random bits, of shape [seeds, columns]; see `random_bits`."""
    return (random_bits(seeds, draw, columns) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def permutation(seed: int, size: int) -> list[int]:
    """Return the numbers below `size` in the random order of `seed`."""
    keys = random_bits([seed], 0, np.arange(size, dtype=np.uint64))[0]
    return [int(i) for i in np.argsort(keys, kind="stable")]
