import json
from collections import Counter
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.sandwich_covariance import cov_cluster_2groups

from benchmarks.human_eval_coverage import WORLDS, World, campaign, faults, simulate
from rso_core.errors import UserError
from rso_core.human_eval import CLEAR, NOT_DISTINGUISHABLE, SAME, Ratings, Results, by_item, results
from rso_core.ratings import Numbers

A, B, C = 0, 1, 2


def made(items: list[list[int]], *, systems: int = 3, **columns: Any) -> Ratings:
    """Return ratings with the choices of each item, whose raters are 0, 1, 2 …"""
    item = [number for number, choices in enumerate(items) for _ in choices]
    rows = len(item)
    values = {
        "item": item,
        "rater": [rater for choices in items for rater in range(len(choices))],
        "item_root": item,
        "quality": [[3] * systems] * rows,
        "choice": [choice for choices in items for choice in choices],
        "order": [list(range(systems))] * rows,
    }
    return Ratings(**(values | columns))


def drawn(seed: int, **world: Any) -> Ratings:
    settings_ = {"name": "drawn", "items": 12, "gap": 0.2, "lost": 0.2, "items_per_root": 2, "raters": 6} | world
    return campaign(World(**settings_), np.random.default_rng(seed))[0]


def with_twins(ratings: Ratings, seed: int) -> Ratings:
    """Return the ratings with the first two responses of about half of the items identical."""
    twins = np.tile(np.arange(ratings.systems), (len(ratings), 1))
    twins[np.random.default_rng(seed).random(ratings.item.max() + 1)[ratings.item] < 0.5, 1] = 0
    return Ratings(**(ratings.columns() | {"twins": twins}))


def found(ratings: Ratings, **options: Any) -> Results:
    return results(ratings, **({"seed": 0, "draws": 200} | options))


def shares(result: Results) -> dict[str, float]:
    """Return the chosen rows by name."""
    named = {f"system {n}": system.chosen.value for n, system in enumerate(result.systems)}
    return named | {"same": result.same.value, "none": result.no_majority.value}


def test_majority_vote_share_and_quality_are_those_computed_by_hand() -> None:
    # Majorities: A (2 of 3), nobody (1-1-1), same (2 of 3), B (all of 2), nobody (1 of 2).
    ratings = made(
        [[A, A, C], [A, B, C], [SAME, SAME, A], [B, B], [A, SAME]],
        quality=[[5, 1, 1], [4, 1, 1], [3, 1, 4]] + [[3, 3, 3]] * 6 + [[1, 5, 1], [3, 5, 1]] + [[2, 2, 2]] * 2,
    )

    result = found(ratings, wanted=3)

    assert shares(result) == {
        "system 0": 1 / 5, "system 1": 1 / 5, "system 2": 0, "same": 1 / 5, "none": 2 / 5,
    }  # fmt: skip
    thirds = [system.vote_share.value * 30 for system in result.systems]
    assert thirds == pytest.approx([(4 + 2 + 2 + 0 + 3), (0 + 2 + 0 + 6 + 0), (2 + 2 + 0 + 0 + 0)])
    assert result.same_share.value * 30 == pytest.approx(4 + 3)
    assert result.systems[A].quality.value == pytest.approx((4 + 3 + 3 + 2 + 2) / 5)
    assert result.systems[B].quality.value == pytest.approx((1 + 3 + 3 + 5 + 2) / 5)
    assert result.items_by_answers == {3: 3, 2: 2, 1: 0}
    assert (result.items, result.answers, result.raters, result.roots) == (5, 13, 3, 5)


def test_one_vote_each_is_no_majority_and_never_the_same() -> None:
    assert shares(found(made([[A, B, C]] * 4))) == {
        "system 0": 0, "system 1": 0, "system 2": 0, "same": 0, "none": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        ([A], "system 0"),
        ([SAME], "same"),
        ([A, B], "none"),
        ([A, A, B, B], "none"),  # half is not more than half
        ([A, A, B, C], "none"),
        ([A, A, A, B, C], "system 0"),
        ([A, A, B, SAME, SAME], "none"),
    ],
)
def test_a_winner_has_more_than_half_of_the_counted_votes(votes: list[int], winner: str) -> None:
    assert shares(found(made([votes])))[winner] == 1


def test_votes_for_identical_responses_are_split_equally_among_them() -> None:
    ratings = made([[A, A, C]], twins=[[7, 7, 8]] * 3)
    one, two, three = (system.vote_share.value for system in found(ratings).systems)
    assert (one, two, three) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert shares(found(ratings))["none"] == 1  # nobody has more than half
    everything_alike = found(made([[A, B, B]], twins=[[0, 0, 0]] * 3))
    assert [system.vote_share.value for system in everything_alike.systems] == pytest.approx([1 / 3] * 3)


def test_items_with_identical_responses_can_be_left_out_and_are_counted_either_way() -> None:
    ratings = made([[A, A], [B, C]], twins=[[0, 0, 1], [0, 0, 1], [0, 1, 2], [0, 1, 2]])
    kept, without = found(ratings), found(ratings, leave_out_identical=True)
    assert (kept.items, kept.identical_items, kept.left_out) == (2, 1, 0)
    assert (without.items, without.identical_items, without.left_out, without.answers) == (1, 1, 1, 2)
    assert [system.vote_share.value for system in without.systems] == [0, 0.5, 0.5]


def test_results_of_nothing_say_what_is_needed() -> None:
    nothing = made([[A]]).rows(np.array([], dtype=np.int64))
    with pytest.raises(UserError, match="at least one counted answer, got none"):
        found(nothing)
    with pytest.raises(UserError, match="count identical responses too"):
        found(made([[A]], twins=[[0, 0, 1]]), leave_out_identical=True)


def brute_force(ratings: Ratings) -> dict[str, list[Fraction]]:
    """Return every share and mean by plain loops over exact fractions."""
    systems = ratings.systems
    items: dict[int, list[int]] = {}
    for row, item in enumerate(ratings.item.tolist()):
        items.setdefault(item, []).append(row)
    share = [Fraction(0)] * (systems + 1)
    chosen = [Fraction(0)] * (systems + 2)
    quality = [Fraction(0)] * systems
    for rows in items.values():
        votes: Counter[int] = Counter()
        for row in rows:
            choice = int(ratings.choice[row])
            twins = ratings.twins[row].tolist() if ratings.twins is not None else list(range(systems))
            alike = [systems] if choice == SAME else [n for n in range(systems) if twins[n] == twins[choice]]
            for option in alike:
                votes[option] += Fraction(1, len(alike))  # type: ignore[assignment]
            for system in range(systems):
                quality[system] += Fraction(int(ratings.quality[row, system]), len(rows)) / len(items)
        winners = [option for option, count in votes.items() if count > Fraction(len(rows), 2)]
        assert len(winners) <= 1
        chosen[winners[0] if winners else systems + 1] += Fraction(1, len(items))
        for option, count in votes.items():
            share[option] += Fraction(count) / len(rows) / len(items)
    return {"share": share, "chosen": chosen, "quality": quality}


@pytest.mark.parametrize("systems", [2, 3])
@given(seed=st.integers(0, 10_000), twins=st.booleans())
@settings(max_examples=20, deadline=None)
def test_values_are_those_of_plain_loops_and_rows_sum_to_one(systems: int, seed: int, *, twins: bool) -> None:
    ratings = drawn(seed, systems=systems)
    ratings = with_twins(ratings, seed) if twins else ratings
    result, exact = found(ratings, draws=20), brute_force(ratings)
    assert [s.vote_share.value for s in result.systems] == pytest.approx([float(x) for x in exact["share"][:systems]])
    assert result.same_share.value == pytest.approx(float(exact["share"][systems]))
    assert list(shares(result).values()) == pytest.approx([float(x) for x in exact["chosen"]])
    assert [s.quality.value for s in result.systems] == pytest.approx([float(x) for x in exact["quality"]])
    assert sum(shares(result).values()) == pytest.approx(1)
    assert sum(s.vote_share.value for s in result.systems) + result.same_share.value == pytest.approx(1)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_answers_changes_nothing_at_all(seed: int) -> None:
    ratings = with_twins(drawn(seed), seed)
    rows = np.random.default_rng(seed).permutation(len(ratings))
    assert found(ratings.rows(rows)) == found(ratings)


@given(seed=st.integers(0, 10_000), new=st.permutations([0, 1, 2]))
@settings(max_examples=10, deadline=None)
def test_systems_under_other_numbers_get_the_same_results(seed: int, new: list[int]) -> None:
    ratings = drawn(seed)
    old = np.argsort(new)  # system n is called new[n]
    renamed = Ratings(
        **(
            ratings.columns()
            | {
                "quality": ratings.quality[:, old],
                "choice": np.where(ratings.choice == SAME, SAME, np.array(new)[ratings.choice]),
                "order": np.array(new)[ratings.order],
            }
        )
    )
    before, after = found(ratings), found(renamed)
    for system, number in enumerate(new):
        for name in ("quality", "chosen", "vote_share"):
            one, other = getattr(before.systems[system], name), getattr(after.systems[number], name)
            assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))
    pairs = {(p.measure, frozenset({p.first, p.second})): p for p in after.pairs}
    for pair in before.pairs:
        other = pairs[pair.measure, frozenset({new[pair.first], new[pair.second]})]
        assert abs(pair.difference.value) == pytest.approx(abs(other.difference.value))
        assert (pair.p, pair.p_holm, pair.verdict) == (
            pytest.approx(other.p),
            pytest.approx(other.p_holm),
            other.verdict,
        )


def test_no_winner_comes_from_a_tie_rule_whatever_the_rows_order() -> None:
    # The trap: crowd-kit's majority vote gives ties to a label by name or by order of appearance, so that of three
    # identical systems one seemed to win 49 % of the items, and 164 of 3,000 changed when the rows were shuffled.
    ratings = campaign(World(name="", items=3000, concentration=1e6), np.random.default_rng(3))[0]
    items = by_item(ratings)
    chosen = items.chosen.mean(axis=0)
    assert np.ptp(chosen[:3]) < 0.04
    assert chosen[4] == pytest.approx(0.324, abs=0.03)  # the exact share of items without a majority
    rows = np.random.default_rng(0).permutation(len(ratings))
    np.testing.assert_array_equal(by_item(ratings.rows(rows)).chosen, items.chosen)


def test_a_rater_who_is_more_severe_does_not_change_the_pairs() -> None:
    ratings = drawn(5)
    severe = np.where(ratings.rater[:, None] == ratings.rater[0], 1, 0)
    moved = Ratings(**(ratings.columns() | {"quality": ratings.quality + 1 - severe}), scale=(1, 6))
    for before, after in zip(found(ratings).pairs, found(moved).pairs, strict=True):
        assert (before.p, before.difference.value) == pytest.approx((after.p, after.difference.value))


def test_answers_given_by_more_raters_do_not_make_an_item_weigh_more() -> None:
    once, thrice = found(made([[A], [B]])), found(made([[A] * 3, [B]]))
    assert [s.vote_share.value for s in once.systems] == [s.vote_share.value for s in thrice.systems]


def test_intervals_are_drawn_by_root_so_that_a_root_repeated_adds_no_certainty() -> None:
    once = drawn(11, items=40, items_per_root=1, lost=0.0)
    shifted = {"item": np.concatenate([once.item, once.item + 1000])}
    doubled = {name: np.concatenate([value, value]) for name, value in once.columns().items()}
    twice = Ratings(**(doubled | shifted))  # every root now has two items with the same answers
    for one, two in zip(found(once).systems, found(twice).systems, strict=True):
        assert (one.quality.low, one.quality.high) == pytest.approx((two.quality.low, two.quality.high))
    assert [pair.p for pair in found(once).pairs] == pytest.approx([pair.p for pair in found(twice).pairs])


def test_the_same_seed_gives_the_same_results_and_another_seed_other_limits_but_no_other_verdict() -> None:
    ratings = drawn(2, items=60)
    assert found(ratings, seed=4) == found(ratings, seed=4)
    one, other = found(ratings, seed=4), found(ratings, seed=5)
    assert one.systems[0].quality.low != other.systems[0].quality.low
    assert [pair.p_holm for pair in one.pairs] == [pair.p_holm for pair in other.pairs]


def test_a_clear_winner_is_called_so_and_few_items_are_not_enough() -> None:
    few, many = found(made([[A, A, A]] * 3)), found(made([[A, A, A]] * 20))
    assert {pair.verdict for pair in few.pairs} == {NOT_DISTINGUISHABLE}
    assert [pair.verdict for pair in many.pairs if pair.measure == "vote_share"] == [
        CLEAR, CLEAR, NOT_DISTINGUISHABLE,
    ]  # fmt: skip
    won = many.systems[A].vote_share
    assert won.value == 1
    assert won.low == pytest.approx(1 - (1 - 0.025 ** (1 / 20)))  # no certainty from having seen nothing else


def test_two_systems_have_wins_losses_and_ties() -> None:
    ratings = made([[0, 0, 1], [1, 1, 1], [SAME, SAME, 0], [0, 1, SAME]], systems=2)
    result = found(ratings)
    side = result.side_by_side
    assert side is not None
    assert [side.win.value, side.loss.value, side.tie.value, side.no_majority.value] == [0.25] * 4
    assert side.win_rate.value == pytest.approx((2 / 3 + 0 + 2 / 3 + 1 / 2) / 4)
    difference = next(pair for pair in result.pairs if pair.measure == "vote_share").difference
    assert side.win_rate.low == pytest.approx((1 + difference.low) / 2)
    assert side.win_rate.high == pytest.approx((1 + difference.high) / 2)
    assert found(made([[A]])).side_by_side is None


def two_way_variance(
    values: Numbers, item: Any, roots: Any, raters: Any, *, corrected: bool = True
) -> tuple[float, float]:
    """Return the variance of the mean over items clustered by root, and that by root and rater, by dictionaries."""
    answers = Counter(item.tolist())
    weights = [1 / (answers[i] * len(answers)) for i in item.tolist()]
    mean = sum(w * v for w, v in zip(weights, values, strict=True))
    parts = []
    for names in (roots.tolist(), raters.tolist(), list(zip(roots.tolist(), raters.tolist(), strict=True))):
        sums: dict[Any, float] = {}
        for name, weight, value in zip(names, weights, values, strict=True):
            sums[name] = sums.get(name, 0.0) + weight * (value - mean)
        factor = len(sums) / (len(sums) - 1) if corrected else 1.0
        parts.append(factor * sum(s * s for s in sums.values()))
    return parts[0], parts[0] + parts[1] - parts[2]


def test_the_two_way_interval_is_that_of_the_formula_and_of_statsmodels() -> None:
    ratings = drawn(21, items=30, raters=8)
    values = ratings.quality[:, 0] - ratings.quality[:, 1]
    pair = next(p for p in found(ratings).pairs if (p.measure, p.first, p.second) == ("quality", 0, 1))
    assert pair.two_way is not None
    error = (pair.two_way.high - pair.two_way.value) / t.ppf(0.975, 7)
    by_root, by_both = two_way_variance(values, ratings.item, ratings.item_root, ratings.rater)
    assert error**2 == pytest.approx(max(by_root, by_both))  # never narrower than by root alone

    complete = drawn(22, items=30, raters=8, lost=0.0, items_per_root=1)  # statsmodels knows no weights by item
    values = complete.quality[:, 0] - complete.quality[:, 1]
    fit = OLS(values, np.ones(len(values))).fit()
    theirs = cov_cluster_2groups(fit, complete.item_root, complete.rater, use_correction=False)[0].item()
    _, ours = two_way_variance(values, complete.item, complete.item_root, complete.rater, corrected=False)
    assert ours == pytest.approx(theirs)


def test_a_single_rater_or_root_has_no_two_way_interval() -> None:
    assert found(made([[A], [B], [C]])).pairs[0].two_way is None
    alone = found(made([[A, B, A]]))
    assert alone.pairs[0].two_way is None
    assert alone.pairs[0].p == 1
    assert alone.pairs[0].detectable is None


def test_results_are_json_and_name_every_pair_once_per_measure() -> None:
    result = found(drawn(1), wanted=3)
    stored = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert stored["items_by_answers"].keys() >= {"1", "2", "3"}
    named = [(pair["measure"], pair["first"], pair["second"]) for pair in stored["pairs"]]
    assert named == [(m, *couple) for m in ("vote_share", "quality") for couple in combinations(range(3), 2)]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("quality", [[6, 1, 1]], "whole number from 1 to 5, got 6"),
        ("quality", [[2.5, 1, 1]], "whole number from 1 to 5, got 2.5"),
        ("quality", [[float("nan"), 1, 1]], "whole number from 1 to 5, got nan"),
        ("quality", [[1], [2]], "with 2 systems or more"),
        ("choice", [3], "-1 .same. or a system from 0 to 2, got 3"),
        ("choice", [0, 1], r"`choice` must have shape \(1,\), got \(2,\)"),
        ("order", [[0, 0, 1]], "the systems 0 to 2 once each"),
    ],
)
def test_wrong_values_are_named(column: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made([[A]], **{column: value})


def test_an_item_has_one_root() -> None:
    with pytest.raises(ValueError, match="one `item_root`"):
        made([[A, A]], item_root=[1, 2])


def test_in_50_simulated_campaigns_intervals_and_tests_are_about_as_right_as_they_say() -> None:
    # `make bench-coverage` holds 4,000 campaigns to the promised limits; these are few, and their limits wide.
    world = World(name="quick", items=100, gap=0.0)
    right = simulate(world, campaigns=50, draws=400, seed=2)
    for name in ("quality", "vote share", "chosen", "vote share difference", "quality difference"):
        assert 0.88 <= right[name] <= 1, name
    for name in ("vote share rejected", "quality rejected"):
        assert right[name] <= 0.12, name


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS[:4], ids=lambda world: world.name)
def test_in_2000_simulated_campaigns_intervals_and_tests_hold_the_promised_limits(world: World) -> None:
    assert faults(world, simulate(world, campaigns=2000, draws=2000, seed=7)) == []
