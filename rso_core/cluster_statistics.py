"""Intervals and tests of means over items whose prompts come in clusters (conversation roots).

Intervals: the cluster bootstrap of `win_rate`, many quantities in the same draws, so that all replicas and all
systems of a root stay together. Its percentiles are taken a little outside 2.5 % and 97.5 %, which makes up for the
factor √((C − 1)/C) and for the normal tails by which the plain percentiles of C clusters are too narrow (Hesterberg,
*What Teachers Should Know about the Bootstrap*, arXiv:1411.5279: "expanded percentiles"). A share that rests on fewer
than ten events (or non-events) has Wilson's interval instead, for as many independent items as its clustered variance
is worth: drawing from three events seen never tells that there might have been eight.

Tests of a difference against 0: up to 16 clusters every way of turning the clusters' signs round is counted, which is
exact for systems that are alike; above, Student's t with the clusters' variance. Neither draws at random, so a
verdict does not hang on a seed.
"""

from dataclasses import dataclass

import numpy as np

from rso_core.distributions import normal_cdf, t_quantile, t_two_sided
from rso_core.ratings import Integers, Numbers
from rso_core.win_rate import Interval, cluster_bootstrap, unseen_limits

DRAWS = 2000
LEVEL = 0.95
MOST_CLUSTERS_ENUMERATED = 16
FEWEST_EVENTS = 10
_NOTHING = 1e-12  # below it a spread is the rounding of sums


@dataclass(frozen=True, eq=False)
class Clustered:
    """Sums of k quantities over each of C clusters, [C, k], and how many items each cluster has, [C]."""

    sums: Numbers
    counts: Numbers

    @property
    def means(self) -> Numbers:
        """The mean over all items, [k]."""
        return np.asarray(self.sums.sum(axis=0) / self.counts.sum())

    def intervals(self, bounds: list[tuple[float, float]], *, draws: int, seed: int) -> list[Interval]:
        """Return each quantity with its 95 % interval; `bounds` are the least and the largest it can be."""
        if draws < 1:
            message = f"`draws` must be 1 or above, got {draws}"
            raise ValueError(message)
        drawn = cluster_bootstrap(self.sums, self.counts, draws=draws, seed=seed)
        tail = expanded_tail(len(self.counts))
        lows, highs = np.quantile(drawn, [tail, 1 - tail], axis=0)
        still = np.ptp(self.sums / self.counts[:, None], axis=0) < _NOTHING
        clusters, errors = len(self.counts), self.standard_errors()
        found = []
        for number, value in enumerate(self.means.tolist()):
            low, high = float(lows[number]), float(highs[number])
            if still[number]:
                low, high = unseen_limits(value, clusters, bounds[number])
            elif bounds[number] == (0.0, 1.0):
                low, high = _limits_of_few_events(value, float(errors[number]), clusters) or (low, high)
            found.append(Interval(value=value, low=low, high=high, n=int(self.counts.sum())))
        return found

    def standard_errors(self) -> Numbers:
        """Return the standard errors of the means, [k], linearised and clustered; infinite for one cluster."""
        clusters = len(self.counts)
        if clusters == 1:
            return np.full(self.sums.shape[1], np.inf)
        residuals = self.sums - self.means * self.counts[:, None]
        return np.asarray(
            np.sqrt(clusters / (clusters - 1) * (residuals**2).sum(axis=0)) / self.counts.sum(), dtype=np.float64
        )

    def p_values(self) -> list[float]:
        """Return for each quantity the two-sided p-value of a mean of 0."""
        if len(self.counts) <= MOST_CLUSTERS_ENUMERATED:
            return _signs_turned(self.sums)
        return [_t_test(*pair, len(self.counts)) for pair in zip(self.means, self.standard_errors(), strict=True)]


def clustered(values: Numbers, roots: Integers) -> Clustered:
    """Return the sums of `values` [I, k] by root [I]."""
    _, member, counts = np.unique(roots, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, member, values)
    return Clustered(sums=sums, counts=counts.astype(np.float64))


def expanded_tail(clusters: int) -> float:
    """Return the share of draws to leave out on either side: 2.5 % for many clusters, less for few."""
    if clusters == 1:
        return 0.0
    return normal_cdf(-np.sqrt(clusters / (clusters - 1)) * t_quantile((1 + LEVEL) / 2, clusters - 1))


def _limits_of_few_events(share: float, error: float, clusters: int) -> tuple[float, float] | None:
    """Return Wilson's limits of a share that rests on few events; None for one that rests on many."""
    worth = share * (1 - share) / error**2  # independent items that would tell as much
    if min(share, 1 - share) * worth >= FEWEST_EVENTS:
        return None
    t = t_quantile((1 + LEVEL) / 2, clusters - 1)
    shrunk = 1 + t * t / worth
    centre = (share + t * t / (2 * worth)) / shrunk
    half_width = t / shrunk * float(np.sqrt(share * (1 - share) / worth + t * t / (4 * worth * worth)))
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def holm(p_values: list[float]) -> list[float]:
    """Return the p-values adjusted for each other by Holm's step-down rule."""
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        least = max(least, (len(p_values) - rank) * p_values[number])
        adjusted[number] = min(1.0, least)
    return adjusted


def _t_test(mean: float, error: float, clusters: int) -> float:
    if error < _NOTHING:  # the same difference everywhere: what is left is the chance that all signs agree
        return 1.0 if abs(mean) < _NOTHING else 2.0 ** (1 - clusters)
    return t_two_sided(float(mean / error), clusters - 1)


def _signs_turned(sums: Numbers) -> list[float]:
    """Return the share of sign patterns whose total is as far from 0 as the total seen, for each quantity."""
    clusters = len(sums)
    patterns = (np.arange(2 ** (clusters - 1))[:, None] >> np.arange(clusters)) & 1  # the last sign stays: ± is one
    totals = np.abs((1 - 2 * patterns) @ sums)
    return [float(p) for p in (totals >= np.abs(sums.sum(axis=0)) - _NOTHING).mean(axis=0)]
