"""The raters one by one: how much they did and how fast, how severe they are, how far others agree, what looks odd.

A flag is a reason to look, never a verdict: nobody is left out because of one. Excluding a rater is a recorded
decision of a person.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from rso_core.ratings import SAME, Integers, Numbers, Ratings

FEWEST_ANSWERS = 8  # no flag about habits with fewer: a few equal answers in a row prove nothing
STRAIGHT_LINING_SHARE = 0.8  # of answers that give all responses of an item the same quality
ALWAYS_LEFT_SHARE = 0.8  # of choices that went to the response on the left
TOO_FAST_SECONDS = 5.0  # of median active time: less than it takes to read three short responses
TOO_FAST_OF_OTHERS = 1 / 3  # of the median of all raters' medians, at which a rater is too fast for this campaign
FAILED_CHECKS = 2  # wrong answers to check items, and …
FAILED_CHECKS_SHARE = 0.5  # … share of them


class RaterFlag(StrEnum):
    """What looks odd."""

    STRAIGHT_LINING = "straight-lining"
    ALWAYS_LEFT = "always left"
    TOO_FAST = "too fast"
    FAILED_CHECKS = "failed checks"


@dataclass(frozen=True)
class RaterSummary:
    """One rater. What nothing is known of is None: nobody else rated the same items, or times were not measured."""

    rater: int
    answers: int
    median_seconds: float | None
    severity: float | None  # mean quality given, minus that of the others on the same responses; negative: severe
    agreement: float | None  # share of the others' choices on the same items that are this rater's
    same_share: float  # of the answers
    straight_share: float  # of the answers: all responses get one quality
    left_share: float | None  # of the choices: the response on the left
    checks: int
    checks_failed: int
    flags: tuple[RaterFlag, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {"flags": [str(flag) for flag in self.flags]}


def rater_table(ratings: Ratings, checks: Mapping[int, tuple[int, int]] | None = None) -> list[RaterSummary]:
    """Return every rater, those with most answers first. `checks`: by rater, (check items answered, of them wrong)."""
    ratings = ratings.in_order()
    raters, member, answers = np.unique(ratings.rater, return_inverse=True, return_counts=True)
    columns: dict[str, Any] = {
        "median_seconds": _median_seconds(ratings, member, len(raters)),
        "severity": _optional_means(_deviations(ratings), member, len(raters)),
        "agreement": _optional_means(_agreeing(ratings), member, len(raters)),
        "same_share": _optional_means((ratings.choice == SAME).astype(np.float64), member, len(raters)),
        "straight_share": _optional_means(_straight(ratings), member, len(raters)),
        "left_share": _optional_means(_left(ratings), member, len(raters)),
    }
    medians = [seconds for seconds in columns["median_seconds"] if seconds is not None]
    usual = float(np.median(medians)) if medians else None
    table = []
    for number, rater in enumerate(raters.tolist()):
        figures = {name: values[number] for name, values in columns.items()}
        answered, wrong = (checks or {}).get(rater, (0, 0))
        flags = _flags(int(answers[number]), figures, usual) + _check_flags(answered, wrong)
        table.append(
            RaterSummary(
                rater=rater,
                answers=int(answers[number]),
                checks=answered,
                checks_failed=wrong,
                flags=tuple(flags),
                **figures,
            )
        )
    return sorted(table, key=lambda row: (-row.answers, row.rater))


def _flags(answers: int, figures: Mapping[str, float | None], usual_seconds: float | None) -> list[RaterFlag]:
    if answers < FEWEST_ANSWERS:
        return []
    seconds, left = figures["median_seconds"], figures["left_share"]
    choices = answers * (1 - (figures["same_share"] or 0))
    found = {
        RaterFlag.STRAIGHT_LINING: (figures["straight_share"] or 0) >= STRAIGHT_LINING_SHARE,
        RaterFlag.ALWAYS_LEFT: left is not None and left >= ALWAYS_LEFT_SHARE and choices >= FEWEST_ANSWERS - 0.5,
        RaterFlag.TOO_FAST: seconds is not None
        and (seconds < TOO_FAST_SECONDS or seconds < TOO_FAST_OF_OTHERS * (usual_seconds or 0)),
    }
    return [flag for flag, raised in found.items() if raised]


def _check_flags(answered: int, wrong: int) -> list[RaterFlag]:
    failed = wrong >= FAILED_CHECKS and wrong >= FAILED_CHECKS_SHARE * answered
    return [RaterFlag.FAILED_CHECKS] if failed else []


def _median_seconds(ratings: Ratings, member: Integers, raters: int) -> list[float | None]:
    if ratings.active_seconds is None:
        return [None] * raters
    return [float(np.median(ratings.active_seconds[member == number])) for number in range(raters)]


def _optional_means(values: Numbers, member: Integers, raters: int) -> list[float | None]:
    """Return the mean of each rater's values that are not NaN, None where all are."""
    known = ~np.isnan(values)
    counts = np.bincount(member[known], minlength=raters)
    sums = np.bincount(member[known], weights=values[known], minlength=raters)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def _deviations(ratings: Ratings) -> Numbers:
    """Return each answer's mean quality minus that of the item's other answers, NaN where there are none."""
    own = ratings.quality.mean(axis=1)
    totals, others = _others(ratings.item, own[:, None])
    return np.asarray(own - _divided(totals[:, 0], others))


def _agreeing(ratings: Ratings) -> Numbers:
    """Return for each answer the share of the item's other answers with the same choice; same texts are one choice."""
    text = ratings.alike()[np.arange(len(ratings)), ratings.choice].argmax(axis=1)
    choice = np.where(ratings.choice == SAME, ratings.systems, text)
    one_hot = np.eye(ratings.systems + 1)[choice]
    totals, others = _others(ratings.item, one_hot)
    return _divided(totals[np.arange(len(choice)), choice], others)


def _others(item: Integers, values: Numbers) -> tuple[Numbers, Numbers]:
    """Return for each answer the sum of `values` over the item's other answers, and how many these are."""
    _, member, answers = np.unique(item, return_inverse=True, return_counts=True)
    sums = np.zeros((len(answers), values.shape[1]))
    np.add.at(sums, member, values)
    return sums[member] - values, (answers[member] - 1).astype(np.float64)


def _divided(totals: Numbers, counts: Numbers) -> Numbers:
    return np.asarray(np.divide(totals, counts, out=np.full(len(totals), np.nan), where=counts > 0))


def _straight(ratings: Ratings) -> Numbers:
    """Return 1 where an answer gives all responses one quality, NaN where two of them have the same text."""
    straight = (ratings.quality == ratings.quality[:, :1]).all(axis=1).astype(np.float64)
    return np.asarray(np.where(ratings.has_twins(), np.nan, straight))


def _left(ratings: Ratings) -> Numbers:
    """Return 1 where the response on the left was chosen, NaN where none was."""
    left = (ratings.choice == ratings.order[:, 0]).astype(np.float64)
    return np.asarray(np.where(ratings.choice == SAME, np.nan, left))
