"""The results of a human evaluation: who was preferred, how good the responses were, and how sure that is.

Everything is first taken together by item, so that an item counts once however many answers it has, and then averaged
over items; intervals and tests keep all items of a conversation root together (`cluster_statistics`).

- *Vote share*: of an item, the share of its answers that chose the system, or "same". Votes for one of several
  responses of the same text are split equally among them: nobody can have preferred one to the other.
- *Chosen*: a system, or "same", wins an item with more than half of its votes. Otherwise the item has no majority,
  which is a row of its own: giving such items to anybody, by name, by order or at random, makes winners out of nothing.
- *Quality*: the mean score of the system in an item's answers.

These intervals are about prompts like these, rated by these raters. `two_way` intervals are about raters like these
too: Cameron, Gelbach and Miller's two-way clustered variance (*Journal of Business & Economic Statistics* 2011), with
Student's t of the smaller number of clusters. They are a check for campaigns in which few raters did most of the work.

Systems are compared by the difference of each item, which takes out what the item and the rater do to both. A pair is
called "clear" when its p-value, adjusted for all pairs by Holm's rule, is below 5 %.
"""

from dataclasses import asdict, dataclass
from itertools import combinations, islice
from math import lcm
from typing import Any

import numpy as np

from rso_core.cluster_statistics import DRAWS, Clustered, clustered, holm
from rso_core.distributions import normal_quantile, t_quantile
from rso_core.errors import UserError
from rso_core.ratings import SAME, Flags, Integers, Numbers, Ratings
from rso_core.win_rate import Interval

__all__ = ["SAME", "Interval", "Items", "Pair", "Ratings", "Results", "SystemResult", "by_item", "results"]

CLEAR = "clear"
NOT_DISTINGUISHABLE = "not distinguishable at this N"
MEASURES = ("vote_share", "quality")  # of pairs
LEVEL = 0.05
POWER = 0.8  # of the difference that is called detectable

_Columns = tuple[Numbers, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Items:
    """The answers taken together by item, in the order of the items' keys. I items, S systems."""

    item: Integers  # [I]
    root: Integers  # [I]
    answers: Integers  # [I]
    quality: Numbers  # [I, S], means over the item's answers
    votes: Numbers  # [I, S + 1], shares of them; "same" comes last
    chosen: Numbers  # [I, S + 2], 1 for what won; then "same" and "no majority"
    identical: Flags  # [I], whether two responses have the same text


@dataclass(frozen=True)
class SystemResult:
    """One system: mean quality, share of items in which it is chosen as preferred, share of the votes.

    The last two are intervals of quality and vote share over raters too; None with a single rater or root.
    """

    quality: Interval
    chosen: Interval
    vote_share: Interval
    quality_two_way: Interval | None
    vote_share_two_way: Interval | None


@dataclass(frozen=True)
class Pair:
    """The difference first − second of two systems in one measure, `vote_share` or `quality`.

    `detectable` is the true difference that as many items, as varied as these, show with 80 % power (before Holm).
    `two_way` is the difference's interval over raters too, as a check; None with a single rater or root.
    """

    first: int
    second: int
    measure: str
    difference: Interval
    p: float
    p_holm: float
    verdict: str
    detectable: float | None
    two_way: Interval | None


@dataclass(frozen=True)
class SideBySide:
    """Two systems, the second being the reference: shares of items won, lost, tied, and without a majority.

    `win_rate` counts the votes, a tie as half a win.
    """

    win: Interval
    loss: Interval
    tie: Interval
    no_majority: Interval
    win_rate: Interval


@dataclass(frozen=True)
class Results:
    """What the answers say, by system index, and what it rests on."""

    systems: tuple[SystemResult, ...]
    same: Interval  # share of items that "same" wins
    no_majority: Interval
    same_share: Interval  # share of the votes
    pairs: tuple[Pair, ...]
    side_by_side: SideBySide | None  # of two systems only
    items: int
    answers: int
    raters: int
    roots: int
    items_by_answers: dict[int, int]  # number of answers: number of items that have so many
    identical_items: int  # items with responses of the same text, whether or not they are counted
    left_out: int  # of them
    draws: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = asdict(self)
        values["items_by_answers"] = {str(answers): items for answers, items in self.items_by_answers.items()}
        return values


def results(
    ratings: Ratings, *, seed: int, draws: int = DRAWS, leave_out_identical: bool = False, wanted: int | None = None
) -> Results:
    """Return the results of the counted answers; their order does not matter.

    `leave_out_identical` drops the items in which two responses have the same text. `wanted`, the replicas asked for,
    makes `items_by_answers` name 1 to `wanted` also where there are none. Raises UserError when nothing is left.
    """
    every = by_item(ratings)
    kept = every.identical & leave_out_identical
    items = _items(every, ~kept)
    if not len(items.item):
        message = "results need at least one counted answer, got none; wait for raters or count identical responses too"
        raise UserError(message)
    used = ratings.rows(np.isin(ratings.item, items.item)).in_order()
    found = _intervals(_by_item_columns(items, ratings.scale), items.root, draws, seed)
    checks = _two_way(used)
    chosen, vote_shares = found["chosen"], found["vote_share"]
    # What is not a system's follows the systems' entries, and zip leaves it.
    per_system = zip(found["quality"], chosen, vote_shares, checks["quality"], checks["vote_share"], strict=False)
    return Results(
        systems=tuple(SystemResult(*figures) for figures in per_system),
        same=chosen[-2],
        no_majority=chosen[-1],
        same_share=vote_shares[-1],
        pairs=tuple(pair for measure in MEASURES for pair in _pairs(measure, items, found, checks)),
        side_by_side=_side_by_side(chosen, found["vote_share difference"][0]) if ratings.systems == 2 else None,  # noqa: PLR2004
        items=len(items.item),
        answers=len(used),
        raters=len(np.unique(used.rater)),
        roots=len(np.unique(items.root)),
        items_by_answers=_items_by_answers(items.answers, wanted),
        identical_items=int(every.identical.sum()),
        left_out=int(kept.sum()),
        draws=draws,
        seed=seed,
    )


def by_item(ratings: Ratings) -> Items:
    """Return the answers taken together by item."""
    ratings = ratings.in_order()
    item, first, member, answers = np.unique(ratings.item, return_index=True, return_inverse=True, return_counts=True)
    votes, whole = _votes(ratings)
    quality, totals = np.zeros((len(item), ratings.systems)), np.zeros((len(item), votes.shape[1]), dtype=np.int64)
    np.add.at(quality, member, ratings.quality)
    np.add.at(totals, member, votes)
    won = 2 * totals > (answers * whole)[:, None]
    return Items(
        item=item,
        root=ratings.item_root[first],
        answers=answers,
        quality=quality / answers[:, None],
        votes=totals / (answers * whole)[:, None],
        chosen=np.column_stack([won, ~won.any(axis=1)]).astype(np.float64),
        identical=ratings.has_twins()[first],
    )


def _votes(ratings: Ratings) -> tuple[Integers, int]:
    """Return each answer's vote [n, S + 1] in parts, and how many parts a vote has: whole numbers divide exactly."""
    whole = lcm(*range(1, ratings.systems + 1))
    votes = np.zeros((len(ratings), ratings.systems + 1), dtype=np.int64)
    same = ratings.choice == SAME
    votes[same, ratings.systems] = whole
    chosen_or_alike = ratings.alike()[~same, ratings.choice[~same]]
    votes[~same, : ratings.systems] = chosen_or_alike * (whole // chosen_or_alike.sum(axis=1))[:, None]
    return votes, whole


def _items(items: Items, which: Flags) -> Items:
    return Items(**{name: value[which] for name, value in vars(items).items()})


def _couples(systems: int) -> list[tuple[int, int]]:
    return list(combinations(range(systems), 2))


def _differences(values: Numbers, systems: int) -> Numbers:
    return np.column_stack([values[:, one] - values[:, other] for one, other in _couples(systems)])


def _by_item_columns(items: Items, scale: tuple[int, int]) -> dict[str, _Columns]:
    """Return every quantity's values by item, with the least and the largest that they can be."""
    systems, reach = items.quality.shape[1], float(scale[1] - scale[0])
    return {
        "quality": (items.quality, (float(scale[0]), float(scale[1]))),
        "vote_share": (items.votes, (0.0, 1.0)),
        "chosen": (items.chosen, (0.0, 1.0)),
        "quality difference": (_differences(items.quality, systems), (-reach, reach)),
        "vote_share difference": (_differences(items.votes, systems), (-1.0, 1.0)),
    }


def _intervals(columns: dict[str, _Columns], roots: Integers, draws: int, seed: int) -> dict[str, list[Interval]]:
    """Return the intervals of all quantities, all from the same draws of the roots."""
    bounds = [bound for values, bound in columns.values() for _ in range(values.shape[1])]
    together = clustered(np.column_stack([values for values, _ in columns.values()]), roots)
    found = iter(together.intervals(bounds, draws=draws, seed=seed))
    return {name: list(islice(found, values.shape[1])) for name, (values, _) in columns.items()}


def _pairs(
    measure: str, items: Items, found: dict[str, list[Interval]], checks: dict[str, list[Interval | None]]
) -> list[Pair]:
    couples = _couples(items.quality.shape[1])
    values = items.votes if measure == "vote_share" else items.quality
    sums = clustered(_differences(values, items.quality.shape[1]), items.root)
    p_values = sums.p_values()
    adjusted = holm(p_values)
    detectable = _detectable(sums)
    name = f"{measure} difference"
    return [
        Pair(
            first=first,
            second=second,
            measure=measure,
            difference=found[name][number],
            p=p_values[number],
            p_holm=adjusted[number],
            verdict=CLEAR if adjusted[number] < LEVEL else NOT_DISTINGUISHABLE,
            detectable=detectable[number],
            two_way=checks[name][number],
        )
        for number, (first, second) in enumerate(couples)
    ]


def _side_by_side(chosen: list[Interval], net: Interval) -> SideBySide:
    win, loss, tie, no_majority = chosen
    rate = Interval(value=(1 + net.value) / 2, low=(1 + net.low) / 2, high=(1 + net.high) / 2, n=net.n)
    return SideBySide(win=win, loss=loss, tie=tie, no_majority=no_majority, win_rate=rate)


def _detectable(sums: Clustered) -> list[float | None]:
    clusters = len(sums.counts)
    if clusters == 1:
        return [None] * sums.sums.shape[1]
    quantiles = t_quantile(1 - LEVEL / 2, clusters - 1) + normal_quantile(POWER)
    return [float(quantiles * error) or None for error in sums.standard_errors()]


def _two_way(ratings: Ratings) -> dict[str, list[Interval | None]]:
    """Return the two-way intervals of quality, vote shares and the pairs' differences in them."""
    votes, whole = _votes(ratings)
    reach = float(ratings.scale[1] - ratings.scale[0])
    found: dict[str, list[Interval | None]] = {}
    for measure, values, bounds, widest in (
        ("quality", ratings.quality, (float(ratings.scale[0]), float(ratings.scale[1])), reach),
        ("vote_share", votes / whole, (0.0, 1.0), 1.0),
    ):
        found[measure] = _two_way_intervals(ratings, values, bounds)
        differences = _differences(values, ratings.systems)
        found[f"{measure} difference"] = _two_way_intervals(ratings, differences, (-widest, widest))
    return found


def _two_way_intervals(ratings: Ratings, values: Numbers, bounds: tuple[float, float]) -> list[Interval | None]:
    """Return the means over items of `values` [n, k], of answers, with two-way clustered intervals."""
    _, member, answers = np.unique(ratings.item, return_inverse=True, return_counts=True)
    weights = 1 / (answers[member] * len(answers))
    means = weights @ values
    residuals = weights[:, None] * (values - means)
    both = np.unique(np.stack([ratings.item_root, ratings.rater]), axis=1, return_inverse=True)[1]
    by_root, roots = _squares(residuals, ratings.item_root)
    by_rater, raters = _squares(residuals, ratings.rater)
    if min(roots, raters) == 1:
        return [None] * values.shape[1]
    variances = np.maximum(by_root, by_root + by_rater - _squares(residuals, both.ravel())[0])
    half_widths = t_quantile(1 - LEVEL / 2, min(roots, raters) - 1) * np.sqrt(variances)
    lows, highs = np.clip([means - half_widths, means + half_widths], *bounds)
    items = len(answers)
    return [Interval(float(a), float(b), float(c), items) for a, b, c in zip(means, lows, highs, strict=True)]


def _squares(residuals: Numbers, clusters: Integers) -> tuple[Numbers, int]:
    """Return the clustered variance of the residuals' sum, [k], and the number of clusters."""
    _, member, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), residuals.shape[1]))
    np.add.at(sums, member, residuals)
    return (sums**2).sum(axis=0) * len(counts) / max(len(counts) - 1, 1), len(counts)


def _items_by_answers(answers: Integers, wanted: int | None) -> dict[int, int]:
    counts = np.bincount(answers, minlength=(wanted or 0) + 1)
    return {
        number: int(counts[number])
        for number in range(len(counts) - 1, 0, -1)
        if counts[number] or number <= (wanted or 0)
    }
