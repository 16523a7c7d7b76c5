"""How far raters agree: Krippendorff's α, Gwet's AC1 and AC2, raw agreement, and the histogram of what was given.

All from value counts: `counts[u, k]` is how many raters gave unit `u` the value `k`. Units of quality are (item,
system), those of the choice are items; raters may be missing anywhere, and a unit with one rating counts for nothing.

α can be near 0 while raters agree on nearly everything, when nearly everything gets one value: chance alone would
agree so often. AC2 (AC1 for names) does not have that weakness, and raw agreement and the histogram show it. Where all
ratings are one value chance explains everything: none of the coefficients is given then, neither as 0 nor as 1.

Intervals are the jackknife's over conversation roots, with Student's t: for α at few units better than the bootstrap
(Hughes, arXiv:2210.13265). There is none where no root differs from the others, or one holds all the variation.

References: Krippendorff, *Content Analysis*, 4th ed., ch. 12; Gwet, *Handbook of Inter-Rater Reliability*, 4th ed.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rso_core.distributions import t_quantile
from rso_core.ratings import SAME, Integers, Numbers, Ratings

NO_VARIATION = "undefined: no variation"
NO_PAIRS = "undefined: no unit has two ratings"
_LEVEL = 0.95
_NOTHING = 1e-9  # below it a share is the rounding of sums that the jackknife left over

Weights = Numbers  # [K, K] or, one for each set of margins, [..., K, K]


@dataclass(frozen=True)
class Coefficient:
    """A coefficient with its 95 % interval. `value` is None where it does not exist, and `undefined` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: str = ""


@dataclass(frozen=True)
class Agreement:
    """Agreement on one question. `units` are those with two ratings or more, `pairs` the pairs of ratings in them."""

    units: int
    pairs: int
    raw: Coefficient  # share of pairs of raters who gave a unit the same value, averaged over units
    within_one: Coefficient | None  # of quality: no more than one point apart
    alpha: Coefficient
    gwet: Coefficient  # AC2 with ordinal weights for quality, AC1 for the choice
    histogram: tuple[int, ...]  # of all ratings, from the lowest value; of choices: the systems, then "same"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def quality_agreement(ratings: Ratings) -> Agreement:
    """Return the agreement on quality: ordinal, unit = (item, system)."""
    low, high = ratings.scale
    ratings = ratings.in_order()
    items, first, member = np.unique(ratings.item, return_index=True, return_inverse=True)
    counts = np.zeros((len(items), ratings.systems, high - low + 1))
    values = (ratings.quality - low).astype(np.int64)
    np.add.at(counts, (member[:, None], np.arange(ratings.systems), values), 1)
    roots = np.repeat(ratings.item_root[first], ratings.systems)
    return _agreement(counts.reshape(-1, high - low + 1), roots, ordinal=True)


def choice_agreement(ratings: Ratings) -> Agreement:
    """Return the agreement on the choice: nominal, unit = item, categories = systems and "same".

    Responses of the same text are one category, named by the first of their systems.
    """
    ratings = ratings.in_order()
    items, first, member = np.unique(ratings.item, return_index=True, return_inverse=True)
    counts = np.zeros((len(items), ratings.systems + 1))
    text = ratings.alike()[np.arange(len(ratings)), ratings.choice].argmax(axis=1)
    np.add.at(counts, (member, np.where(ratings.choice == SAME, ratings.systems, text)), 1)
    return _agreement(counts, ratings.item_root[first], ordinal=False)


def alpha(counts: Numbers, *, ordinal: bool) -> Coefficient:
    """Return Krippendorff's α of value counts [U, K], without an interval."""
    return _agreement(counts, np.arange(len(counts)), ordinal=ordinal).alpha


def gwet(counts: Numbers, *, ordinal: bool) -> Coefficient:
    """Return Gwet's AC1, or AC2 with ordinal weights, of value counts [U, K], without an interval."""
    return _agreement(counts, np.arange(len(counts)), ordinal=ordinal).gwet


def ordinal_weights(values: int) -> Weights:
    """Return Gwet's ordinal weights, [K, K]: 1 for the same value, 0 for the furthest apart."""
    apart = np.abs(np.subtract.outer(np.arange(values), np.arange(values)))
    return np.asarray(1 - apart * (apart + 1) / (values * (values - 1)))


def _agreement(counts: Numbers, roots: Integers, *, ordinal: bool) -> Agreement:
    raters = counts.sum(axis=1)
    values = counts.shape[1]
    paired = raters > 1
    nearby = np.abs(np.subtract.outer(np.arange(values), np.arange(values))) <= 1
    weights = ordinal_weights(values) if ordinal else np.eye(values)
    sums = _UnitSums.of(counts, roots)
    return Agreement(
        units=int(paired.sum()),
        pairs=int((raters * (raters - 1) / 2).sum()),
        raw=_jackknife(sums, lambda each: _raw(each, np.eye(values))),
        within_one=_jackknife(sums, lambda each: _raw(each, nearby.astype(np.float64))) if ordinal else None,
        alpha=_jackknife(sums, lambda each: _alpha(each, ordinal=ordinal)),
        gwet=_jackknife(sums, lambda each: _gwet(each, weights)),
        histogram=tuple(int(n) for n in counts.sum(axis=0)),
    )


@dataclass(frozen=True, eq=False)
class _UnitSums:
    """What every coefficient is made of, summed over units; the first axis tells sets of units apart.

    `coincidences` [..., K, K]: ordered pairs of ratings of one unit, each weighing 1 / (ratings of the unit − 1).
    `agreeing` [..., K, K]: the same as shares of the unit's pairs. `margins` [..., K]: shares of a unit's ratings.
    """

    coincidences: Numbers
    agreeing: Numbers
    paired: Numbers
    margins: Numbers
    units: Numbers

    @classmethod
    def of(cls, counts: Numbers, roots: Integers) -> "_UnitSums":
        """Return the sums of each root's units."""
        names, member = np.unique(roots, return_inverse=True)
        raters = counts.sum(axis=1)
        counts, member, raters = counts[raters > 0], member[raters > 0], raters[raters > 0]
        pairs = counts[:, :, None] * counts[:, None, :]
        diagonal = np.arange(counts.shape[1])
        pairs[:, diagonal, diagonal] -= counts
        others = np.maximum(raters - 1, 1)  # of a single rating there are no pairs to divide

        def by_root(values: Numbers) -> Numbers:
            total = np.zeros((len(names), *values.shape[1:]))
            np.add.at(total, member, values)
            return total

        return cls(
            coincidences=by_root(pairs / others[:, None, None]),
            agreeing=by_root(pairs / (raters * others)[:, None, None]),
            paired=by_root((raters > 1).astype(np.float64)),
            margins=by_root(counts / raters[:, None]),
            units=by_root(np.ones(len(counts))),
        )

    def total(self) -> "_UnitSums":
        """Return the sums over everything, as one set."""
        return _UnitSums(**{name: value.sum(axis=0, keepdims=True) for name, value in vars(self).items()})

    def without_each(self) -> "_UnitSums":
        """Return the sums over all roots but one, for each of them."""
        return _UnitSums(**{name: value.sum(axis=0) - value for name, value in vars(self).items()})


def _raw(sums: _UnitSums, weights: Weights) -> Numbers:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sums.agreeing * weights).sum(axis=(-1, -2)) / sums.paired)


def _alpha(sums: _UnitSums, *, ordinal: bool) -> Numbers:
    ratings = sums.coincidences.sum(axis=(-1, -2))
    coincidences = sums.coincidences / np.maximum(ratings, 1)[..., None, None]
    margins = coincidences.sum(axis=-1)
    distances = _ordinal_distances(margins) if ordinal else 1 - np.eye(margins.shape[-1])
    expected = (margins[..., :, None] * margins[..., None, :] * distances).sum(axis=(-1, -2))
    observed = (coincidences * distances).sum(axis=(-1, -2))
    varied = expected > _NOTHING
    by_chance = np.where(varied, expected * ratings, 1.0)
    return np.asarray(np.where(varied, 1 - (ratings - 1) * observed / by_chance, np.nan))


def _ordinal_distances(margins: Numbers) -> Weights:
    """Return (share of ratings from c to k, those of c and k themselves halved)², [..., K, K]."""
    middle = np.cumsum(margins, axis=-1) - margins / 2
    return np.asarray((middle[..., :, None] - middle[..., None, :]) ** 2)


def _gwet(sums: _UnitSums, weights: Weights) -> Numbers:
    values = len(weights)
    shares = sums.margins / np.maximum(sums.units, 1)[..., None]
    chance = weights.sum() / (values * (values - 1)) * (shares * (1 - shares)).sum(axis=-1)
    varied = shares.max(axis=-1) < 1 - _NOTHING
    return np.asarray(np.where(varied, (_raw(sums, weights) - chance) / (1 - chance), np.nan))


def _jackknife(by_root: _UnitSums, coefficient: Callable[[_UnitSums], Numbers]) -> Coefficient:
    total = by_root.total()
    value = float(coefficient(total)[0])
    if np.isnan(value):
        return Coefficient(None, undefined=NO_VARIATION if total.paired[0] else NO_PAIRS)
    roots = len(by_root.units)
    without = coefficient(by_root.without_each()) if roots > 1 else np.array([np.nan])
    if np.isnan(without).any():  # some root holds all there is, so that nothing is known of others
        return Coefficient(value)
    error = float(np.sqrt((roots - 1) / roots * ((without - without.mean()) ** 2).sum()))
    if error < _NOTHING:  # the same in every root: no spread to tell an interval from
        return Coefficient(value)
    half_width = t_quantile((1 + _LEVEL) / 2, roots - 1) * error
    return Coefficient(value, low=max(-1.0, value - half_width), high=min(1.0, value + half_width))
