import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.human_eval_coverage import World, campaign
from rso_core.rating_bias import NO_CHOICES, length_bias, position_bias
from rso_core.ratings import SAME, Ratings


def made(**columns: Any) -> Ratings:
    rows = len(columns["choice"])
    values = {
        "item": range(rows),
        "rater": [0] * rows,
        "item_root": columns.get("item", range(rows)),
        "quality": [[3, 3, 3]] * rows,
        "order": [[0, 1, 2]] * rows,
    }
    return Ratings(**({name: list(value) for name, value in values.items()} | columns))


def test_places_come_from_the_order_that_was_shown_and_not_from_the_systems_numbers() -> None:
    # The trap: a "position" that was the rank rather than the place inverted the sign of the bias.
    found = position_bias(
        made(
            choice=[2, 2, 0, SAME],
            order=[[2, 0, 1], [2, 1, 0], [1, 2, 0], [0, 1, 2]],
            quality=[[1, 2, 5], [1, 2, 5], [4, 2, 2], [3, 3, 3]],
        )
    )
    assert found.choices == 3
    assert found.chosen == pytest.approx((2 / 3, 0, 1 / 3))
    assert found.quality == pytest.approx(((5 + 5 + 2 + 3) / 4, (1 + 2 + 2 + 3) / 4, (2 + 1 + 4 + 3) / 4))
    expected = stats.chisquare([2, 0, 1])
    assert (found.chi_square, found.p) == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize("systems", [2, 3])
def test_the_test_is_the_librarys(systems: int) -> None:
    ratings = campaign(World(name="", items=40, systems=systems), np.random.default_rng(1))[0]
    chose = ratings.rows(ratings.choice != SAME)
    places = [row.tolist().index(choice) for row, choice in zip(chose.order, chose.choice.tolist(), strict=True)]
    expected = stats.chisquare(np.bincount(places, minlength=systems))
    found = position_bias(ratings)
    assert (found.chi_square, found.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_raters_drawn_to_the_left_are_seen() -> None:
    ratings = campaign(World(name="", items=100), np.random.default_rng(2))[0]
    drawn = np.random.default_rng(3).random(len(ratings)) < 0.3
    biased = Ratings(**(ratings.columns() | {"choice": np.where(drawn, ratings.order[:, 0], ratings.choice)}))
    found = position_bias(biased)
    assert found.p is not None
    assert found.chosen is not None
    assert found.p < 1e-6
    assert found.chosen[0] > 0.45


def test_without_a_choice_the_shares_are_undefined() -> None:
    found = position_bias(made(choice=[SAME, SAME]))
    assert (found.chosen, found.p, found.undefined) == (None, None, NO_CHOICES)
    lengths = length_bias(made(choice=[SAME], length=[[1, 2, 3]]))
    assert (lengths.chosen, lengths.p, lengths.undefined) == (None, None, NO_CHOICES)


def test_ranks_of_length_by_hand() -> None:
    # The longest; one of two longest; the shortest; in items of one, one and two answers.
    found = length_bias(
        made(
            item=[0, 1, 2, 2],
            rater=[0, 0, 0, 1],
            choice=[1, 0, 2, 1],
            length=[[5, 9, 1], [7, 7, 2], [6, 4, 2], [6, 4, 2]],
        )
    )
    ranks = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
    assert found.chosen == pytest.approx(tuple(ranks.mean(axis=0)))
    assert found.score == pytest.approx(np.mean([1, 0.5, -0.5]))
    assert found.mean_chosen == pytest.approx((9 + 7 + 3) / 3)
    assert found.mean_other == pytest.approx((3 + 4.5 + 4.5) / 3)


def test_choosing_the_longest_is_seen_and_replicas_of_an_item_are_not_taken_for_independent() -> None:
    ratings = campaign(World(name="", items=60), np.random.default_rng(5))[0]
    assert ratings.length is not None
    lengths = ratings.length + np.array([0, 0.1, 0.2])  # no two alike
    longest = Ratings(**(ratings.columns() | {"length": lengths, "choice": lengths.argmax(axis=1)}))
    found = length_bias(longest)
    assert found.score == 1
    assert found.p is not None
    assert found.p < 1e-12
    once = longest.rows(np.arange(0, len(longest), 3))
    assert length_bias(once).p == pytest.approx(found.p)


def test_lengths_must_be_known() -> None:
    with pytest.raises(ValueError, match="`length` is needed"):
        length_bias(made(choice=[0]))


def test_biases_are_json() -> None:
    ratings = campaign(World(name="", items=20), np.random.default_rng(6))[0]
    json.dumps([position_bias(ratings).as_dict(), length_bias(ratings).as_dict()], allow_nan=False)
