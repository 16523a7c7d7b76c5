import json
from typing import Any

import numpy as np
import pytest

from benchmarks.human_eval_coverage import World, campaign
from rso_core.rater_quality import RaterFlag, RaterSummary, rater_table
from rso_core.ratings import SAME, Ratings


def drawn(seed: int = 0, **world: Any) -> Ratings:
    options = {"name": "", "items": 60, "raters": 6, "lost": 0.1} | world
    return campaign(World(**options), np.random.default_rng(seed))[0]


def changed(ratings: Ratings, **columns: Any) -> Ratings:
    return Ratings(**(ratings.columns() | columns))


def row(table: list[RaterSummary], rater: int) -> RaterSummary:
    return next(summary for summary in table if summary.rater == rater)


def test_figures_by_hand() -> None:
    ratings = Ratings(
        item=np.array([0, 0, 0, 1, 1, 2]),
        rater=np.array([7, 8, 9, 7, 8, 7]),
        item_root=np.array([0, 0, 0, 1, 1, 2]),
        quality=np.array([[1, 1, 1], [2, 3, 4], [3, 3, 3], [5, 5, 4], [2, 2, 4], [1, 2, 3]], dtype=float),
        choice=np.array([0, 0, 2, SAME, SAME, 2]),
        order=np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 1, 2], [0, 1, 2], [1, 0, 2]]),
        active_seconds=np.array([10.0, 50.0, 20.0, 30.0, 60.0, 14.0]),
    )

    table = rater_table(ratings, checks={8: (3, 1)})

    assert [summary.rater for summary in table] == [7, 8, 9]  # those with most answers first
    first = table[0]
    assert (first.answers, first.median_seconds) == (3, 14.0)
    assert first.severity == pytest.approx(((1 - 3) + (14 / 3 - 8 / 3)) / 2)  # item 2 has nobody else
    assert first.agreement == pytest.approx((1 / 2 + 1) / 2)
    assert (first.same_share, first.straight_share, first.left_share) == pytest.approx((1 / 3, 1 / 3, 1 / 2))
    assert (row(table, 8).checks, row(table, 8).checks_failed) == (3, 1)
    assert all(summary.flags == () for summary in table)


def test_severity_and_agreement_are_those_of_plain_loops() -> None:
    ratings = drawn(1)
    for summary in rater_table(ratings):
        deviations, agreeing = [], []
        for n in np.flatnonzero(ratings.rater == summary.rater):
            others = np.flatnonzero((ratings.item == ratings.item[n]) & (ratings.rater != summary.rater))
            if len(others):
                deviations.append(ratings.quality[n].mean() - ratings.quality[others].mean())
                agreeing.append(float((ratings.choice[others] == ratings.choice[n]).mean()))
        assert summary.severity == pytest.approx(np.mean(deviations))
        assert summary.agreement == pytest.approx(np.mean(agreeing))


def test_a_severe_rater_has_a_severity_below_zero() -> None:
    ratings = drawn(2, severity=0.0)
    lower = np.where(ratings.rater[:, None] == 3, np.maximum(ratings.quality - 1, 1), ratings.quality)
    table = rater_table(changed(ratings, quality=lower))
    assert min(table, key=lambda summary: summary.severity or 0).rater == 3
    assert (row(table, 3).severity or 0) < -0.5


def test_ordinary_raters_have_no_flags() -> None:
    ratings = changed(drawn(3), active_seconds=np.full(len(drawn(3)), 40.0))
    assert all(summary.flags == () for summary in rater_table(ratings, checks={0: (4, 1)}))


@pytest.mark.parametrize(
    ("flag", "change"),
    [
        (RaterFlag.STRAIGHT_LINING, lambda r, odd: {"quality": np.where(odd[:, None], 4.0, r.quality)}),
        (RaterFlag.ALWAYS_LEFT, lambda r, odd: {"choice": np.where(odd, r.order[:, 0], r.choice)}),
        (RaterFlag.TOO_FAST, lambda _, odd: {"active_seconds": np.where(odd, 3.0, 40.0)}),
        (RaterFlag.TOO_FAST, lambda _, odd: {"active_seconds": np.where(odd, 12.0, 40.0)}),
    ],
)
def test_an_odd_rater_is_flagged_and_nobody_else(flag: RaterFlag, change: Any) -> None:
    ratings = drawn(4)
    table = rater_table(changed(ratings, **change(ratings, ratings.rater == 2)))
    assert {summary.rater: summary.flags for summary in table if summary.flags} == {2: (flag,)}


@pytest.mark.parametrize(("checks", "flagged"), [((2, 2), True), ((4, 2), True), ((1, 1), False), ((5, 2), False)])
def test_failed_checks_are_flagged_when_they_are_two_and_half_of_all(checks: tuple[int, int], *, flagged: bool) -> None:
    flags = row(rater_table(drawn(5), checks={1: checks}), 1).flags
    assert (RaterFlag.FAILED_CHECKS in flags) == flagged


def test_a_few_answers_are_no_habit() -> None:
    ratings = drawn(6)
    few = ratings.rows(np.flatnonzero(ratings.rater == 0)[:7])
    assert rater_table(changed(few, quality=np.full((7, 3), 5.0), choice=few.order[:, 0]))[0].flags == ()


def test_giving_identical_responses_the_same_quality_is_no_straight_lining() -> None:
    ratings = drawn(7)
    same = changed(ratings, quality=np.full((len(ratings), 3), 4.0), twins=np.zeros((len(ratings), 3), dtype=int))
    assert all(summary.straight_share is None for summary in rater_table(same))
    assert all(summary.flags == () for summary in rater_table(same))


def test_choices_of_identical_responses_agree() -> None:
    ratings = Ratings(
        item=np.array([0, 0]),
        rater=np.array([0, 1]),
        item_root=np.array([0, 0]),
        quality=np.full((2, 3), 3.0),
        choice=np.array([0, 1]),
        order=np.tile([0, 1, 2], (2, 1)),
        twins=np.array([[4, 4, 5]] * 2),
    )
    assert [summary.agreement for summary in rater_table(ratings)] == [1, 1]


def test_the_table_is_json() -> None:
    stored = json.dumps([summary.as_dict() for summary in rater_table(drawn(8))], allow_nan=False)
    assert json.loads(stored)[0]["flags"] == []
