"""Win rates with 95 % intervals, by bootstrap over conversation roots.

Prompts of one conversation are not independent, so whole conversations are drawn with replacement (a cluster
bootstrap) and the rate is that of all prompts drawn: a ratio of sums. The interval lies between the 2.5 % and 97.5 %
percentiles of the draws.

Where no draw can differ from the data (every conversation has the same mean, as when all games are won, or there is
only one conversation) the percentiles would meet and promise a certainty nobody has. There the interval is that of
the outcomes not seen: with C conversations their share is below q = 1 − 0.025^(1/C) at 97.5 % confidence (Clopper
and Pearson's limit for none of C), and the rate moves by at most that share towards either end of its range.
"""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rso_core.errors import UserError

_TAIL = 0.025
_CELLS_AT_ONCE = 2_000_000  # bounds the memory of one batch of draws to some tens of MB

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate from `n` prompts with its 95 % interval, as fractions (not per cent)."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """Return the estimate as JSON values."""
        return asdict(self)


def win_rate(values: ArrayLike, clusters: Sequence[Hashable], *, draws: int, seed: int) -> Interval:
    """Return the mean of `values` (1 win, 0 loss, ½ tie) with its interval.

    `clusters` holds each value's conversation root. The order of the rows does not matter. Raises UserError when
    there are no values, ValueError when lengths differ or a value lies outside [0, 1].
    """
    return _estimate(_checked(values, clusters), clusters, (0.0, 1.0), draws, seed)


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, clusters: Sequence[Hashable], *, draws: int, seed: int
) -> Interval:
    """Return the mean difference ours − theirs on the same prompts, with its interval; see `win_rate`.

    Differences are taken prompt by prompt before drawing, so what a prompt does to both cancels.
    """
    difference = _checked(ours, clusters) - _checked(theirs, clusters)
    return _estimate(difference, clusters, (-1.0, 1.0), draws, seed)


def _checked(values: ArrayLike, clusters: Sequence[Hashable]) -> Vector:
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (len(clusters),):
        message = f"`values` and `clusters` must have the same length, got shape {vector.shape} and {len(clusters)}"
        raise ValueError(message)
    if vector.size == 0:
        message = "a win rate needs at least one prompt, got none; give the split a larger fraction or import more data"
        raise UserError(message)
    if not ((vector >= 0) & (vector <= 1)).all():  # NaN is outside too
        wrong = vector[~((vector >= 0) & (vector <= 1))][0]
        message = f"an outcome is a number from 0 (loss) to 1 (win), got {wrong}"
        raise ValueError(message)
    return vector


def _estimate(
    values: Vector, clusters: Sequence[Hashable], bounds: tuple[float, float], draws: int, seed: int
) -> Interval:
    if draws < 1:
        message = f"`draws` must be 1 or above, got {draws}"
        raise ValueError(message)
    sums, counts = _by_cluster(values, clusters)
    value = float(sums.sum() / counts.sum())
    if np.ptp(sums / counts) == 0:
        low, high = unseen_limits(value, len(sums), bounds)
    else:
        low, high = np.quantile(cluster_bootstrap(sums, counts, draws=draws, seed=seed), [_TAIL, 1 - _TAIL])
    return Interval(value=value, low=float(low), high=float(high), n=len(values))


def cluster_means(values: Vector, clusters: Sequence[Hashable], *, draws: int, seed: int) -> Vector:
    """Return the mean of `values` in each of `draws` samples of the clusters with replacement, [draws]."""
    return cluster_bootstrap(*_by_cluster(values, clusters), draws=draws, seed=seed)


def quantile_limits(drawn: Vector) -> tuple[float, float]:
    """Return the limits of the 95 % interval of what was drawn."""
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def unseen_limits(value: float, clusters: int, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the interval of a mean that is `value` in each cluster: how far clusters not seen can move it."""
    unseen = 1 - _TAIL ** (1 / clusters)
    return value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value)


def _by_cluster(values: Vector, clusters: Sequence[Hashable]) -> tuple[Vector, Vector]:
    """Return the sum and the number of each cluster's values, clusters in an order that rows do not change."""
    names = {name: number for number, name in enumerate(sorted(set(clusters), key=repr))}
    member = np.array([names[name] for name in clusters])
    # Sorted first: float sums depend on the order of what is added.
    order = np.lexsort((values, member))
    sums = np.bincount(member[order], weights=values[order]).astype(np.float64)
    return sums, np.bincount(member).astype(np.float64)


def cluster_bootstrap(sums: Vector, counts: Vector, *, draws: int, seed: int) -> Vector:
    """Return sum(sums) / sum(counts) in each of `draws` samples of the clusters with replacement.

    `counts` is [C]. `sums` is [C] or, for k quantities drawn together, [C, k]; the result is [draws] or [draws, k].
    """
    generator = np.random.default_rng(seed)
    clusters = len(sums)
    at_once = max(1, _CELLS_AT_ONCE // clusters)
    rates = []
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        times = cluster_draws(generator, size, clusters)
        total = times @ counts
        rates.append(times @ sums / (total if sums.ndim == 1 else total[:, None]))
    return np.concatenate(rates)


def cluster_draws(generator: np.random.Generator, draws: int, clusters: int) -> Vector:
    """Return how often each cluster is in each of `draws` samples with replacement, [draws, clusters]."""
    drawn = generator.integers(clusters, size=(draws, clusters))
    drawn += np.arange(draws)[:, None] * clusters
    return np.bincount(drawn.ravel(), minlength=draws * clusters).reshape(draws, clusters).astype(np.float64)
