"""Means over seeds and prompts with 95 % intervals, by a crossed bootstrap of both.

A draw takes seeds with replacement and, apart from that, conversation roots with replacement: a root that several seeds
share is drawn for all of them at once, roots of one seed are drawn within it. What is estimated is the mean over seeds
of the mean over a seed's prompts; the limits are the 2.5 % and 97.5 % percentiles of the draws.

Where each seed has its own prompts such draws count the prompts' noise up to three times (Owen, *The pigeonhole
bootstrap*, arXiv:0711.2139), while resampling a few seeds shows too little of theirs. The two work against each other:
with five seeds the limits covered the truth 94 to 99 times in 100 whatever the seeds' share of the noise was, with two
seeds 85 to 99 times (`tests/rso_core/test_study_statistics.py`). With one seed the interval is over its prompts only
and says nothing about other seeds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rso_core.win_rate import Vector, cluster_draws, unseen_limits

DRAWS = 2000
_TAILS = (0.025, 0.975)
_NOTHING = 1e-12  # below it a spread is the rounding of sums


@dataclass(frozen=True)
class Outcomes:
    """One number for each prompt of a seed: ids of the prompts, their conversation roots, the numbers."""

    prompts: tuple[str, ...]
    roots: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean over the prompts."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class Estimate:
    """A mean over `seeds` seeds and `n` prompts in all, its 95 % interval, and the p-value of a mean of 0."""

    value: float
    low: float
    high: float
    n: int
    seeds: int
    p: float

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return asdict(self)


def mean_over_seeds(by_seed: Mapping[int, Outcomes], bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """Return the mean over seeds of the mean over prompts; `bounds` are the least and the largest it can be.

    Raises ValueError without a seed. The order of seeds and rows does not matter.
    """
    if not by_seed:
        message = "a mean over seeds needs at least one seed, got none"
        raise ValueError(message)
    sums, counts = _by_root(by_seed)
    seeds, roots = sums.shape
    value, rows = float((sums.sum(axis=1) / counts.sum(axis=1)).mean()), int(counts.sum())
    drawn = _crossed_draws(sums, counts)
    if np.ptp(drawn) < _NOTHING:
        low, high = unseen_limits(value, roots, bounds)
        p = 1.0 if abs(value) < _NOTHING else 2.0 ** (1 - min(roots, 1000))
    else:
        low, high = (float(limit) for limit in np.quantile(drawn, _TAILS))
        p = _two_sided(drawn)
    return Estimate(value, low, high, rows, seeds, p)


def paired_over_seeds(ours: Mapping[int, Outcomes], theirs: Mapping[int, Outcomes]) -> Estimate | None:
    """Return the mean of ours − theirs on the same prompts of the same seeds; None when they share no seed.

    Raises ValueError when a shared seed was measured on other prompts altogether.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    return mean_over_seeds({seed: _difference(ours[seed], theirs[seed], seed) for seed in shared}, (-1.0, 1.0))


def _difference(ours: Outcomes, theirs: Outcomes, seed: int) -> Outcomes:
    """Return ours − theirs on the prompts that both have: a judge may have left different ones unjudged."""
    other = dict(zip(theirs.prompts, theirs.values, strict=True))
    rows = zip(ours.prompts, ours.roots, ours.values, strict=True)
    paired = [(prompt, root, value - other[prompt]) for prompt, root, value in rows if prompt in other]
    if not paired:
        message = (
            f"two arms were measured on different prompts at seed {seed}: they cannot be compared prompt by prompt"
        )
        raise ValueError(message)
    return Outcomes(*(tuple(column) for column in zip(*paired, strict=True)))


def _by_root(by_seed: Mapping[int, Outcomes]) -> tuple[Vector, Vector]:
    """Return sums and numbers of the values of each seed and root, both [S, R]."""
    names = sorted({root for found in by_seed.values() for root in found.roots})
    number = {name: index for index, name in enumerate(names)}
    sums, counts = np.zeros((len(by_seed), len(names))), np.zeros((len(by_seed), len(names)))
    for row, seed in enumerate(sorted(by_seed)):
        member = np.array([number[root] for root in by_seed[seed].roots])
        values = np.array(by_seed[seed].values, dtype=np.float64)
        order = np.lexsort((values, member))  # float sums depend on the order of what is added
        np.add.at(sums[row], member[order], values[order])
        np.add.at(counts[row], member, 1.0)
    return sums, counts


def _crossed_draws(sums: Vector, counts: Vector) -> Vector:
    """Return the mean over the drawn seeds of their means over the drawn roots, [draws]."""
    seeds, roots = sums.shape
    times = _draws(roots, 0)
    rates = (times @ sums.T) / np.maximum(times @ counts.T, 1.0)  # [draws, S]
    return np.asarray((_draws(seeds, 1) * rates).sum(axis=1) / seeds)


@lru_cache(maxsize=4)
def _draws(clusters: int, seed: int) -> Vector:
    return cluster_draws(np.random.default_rng(seed), DRAWS, clusters)


def _two_sided(drawn: Vector) -> float:
    """Return twice the share of draws on the far side of 0; never 0, since other draws might be there."""
    least = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(drawn) + 1))
