import json
import warnings
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t
from statsmodels.stats.inter_rater import fleiss_kappa

from benchmarks.human_eval_coverage import World, campaign
from rso_core.agreement import (
    NO_PAIRS,
    NO_VARIATION,
    alpha,
    choice_agreement,
    gwet,
    ordinal_weights,
    quality_agreement,
)
from rso_core.ratings import SAME, Numbers, Ratings

# Twelve units, four raters, some missing: the example of Gwet's and Krippendorff's books.
PUBLISHED = """
1 1 - 1
2 2 3 2
3 3 3 3
3 3 3 3
2 2 2 2
1 2 3 4
4 4 4 4
1 1 2 1
2 2 2 2
- 5 5 5
- - 1 1
- - 3 -
"""

value_counts = st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any), min_size=2, max_size=12).map(
    lambda rows: np.array(rows, dtype=np.float64)
)


def counts_of(table: str, values: int) -> Numbers:
    rows = [[int(value) for value in line.split() if value != "-"] for line in table.strip().splitlines()]
    return np.array([[row.count(value) for value in range(1, values + 1)] for row in rows], dtype=np.float64)


def drawn(seed: int, **world: Any) -> Ratings:
    options = {"name": "", "items": 25, "lost": 0.2, "gap": 0.2, "items_per_root": 2, "raters": 5} | world
    return campaign(World(**options), np.random.default_rng(seed))[0]


def alpha_by_loops(counts: Numbers, *, ordinal: bool) -> float | None:
    """Return α from all pairs of single ratings, as in Krippendorff's chapter."""
    units = [[k for k, n in enumerate(row) for _ in range(int(n))] for row in counts]
    units = [unit for unit in units if len(unit) > 1]
    everything = [k for unit in units for k in unit]
    of_value = [everything.count(k) for k in range(counts.shape[1])]

    def distance(c: int, k: int) -> float:
        low, high = min(c, k), max(c, k)
        if not ordinal:
            return float(c != k)
        return float((sum(of_value[low : high + 1]) - (of_value[low] + of_value[high]) / 2) ** 2)

    pairs_within = [
        distance(unit[i], unit[j]) / (len(unit) - 1)
        for unit in units
        for i in range(len(unit))
        for j in range(len(unit))
        if i != j
    ]
    n = len(everything)
    pairs_overall = [distance(everything[i], everything[j]) for i in range(n) for j in range(n) if i != j]
    if not sum(pairs_overall):
        return None
    return 1 - (sum(pairs_within) / n) / (sum(pairs_overall) / (n * (n - 1)))


def gwet_by_loops(counts: Numbers, weights: Numbers) -> float | None:
    values = counts.shape[1]
    agreements = []
    for row in counts:
        ratings = [k for k, n in enumerate(row) for _ in range(int(n))]
        pairs = [(a, b) for i, a in enumerate(ratings) for j, b in enumerate(ratings) if i != j]
        if pairs:
            agreements.append(sum(weights[a, b] for a, b in pairs) / len(pairs))
    if not agreements:
        return None
    shares = [float(np.mean([row[k] / row.sum() for row in counts])) for k in range(values)]
    if max(shares) == 1:
        return None
    chance = weights.sum() / (values * (values - 1)) * sum(share * (1 - share) for share in shares)
    return float((np.mean(agreements) - chance) / (1 - chance))


def test_the_published_example_has_the_published_coefficients() -> None:
    counts = counts_of(PUBLISHED, 5)
    assert alpha(counts, ordinal=False).value == pytest.approx(0.743, abs=5e-4)
    assert alpha(counts, ordinal=True).value == pytest.approx(0.815, abs=5e-4)
    assert gwet(counts, ordinal=False).value == pytest.approx(0.77544, abs=5e-6)


@pytest.mark.parametrize("ordinal", [True, False])
@given(counts=value_counts)
@settings(max_examples=25, deadline=None)
def test_alpha_is_that_of_all_pairs_and_of_the_library(counts: Numbers, *, ordinal: bool) -> None:
    ours, loops = alpha(counts, ordinal=ordinal), alpha_by_loops(counts, ordinal=ordinal)
    if loops is None:
        assert ours.value is None
        assert ours.undefined in {NO_VARIATION, NO_PAIRS}
        return
    assert ours.value == pytest.approx(loops)
    level = "ordinal" if ordinal else "nominal"
    theirs = krippendorff.alpha(value_counts=counts.astype(int), value_domain=[1, 2, 3, 4], level_of_measurement=level)
    assert ours.value == pytest.approx(theirs)


@pytest.mark.parametrize("ordinal", [True, False])
@given(counts=value_counts)
@settings(max_examples=25, deadline=None)
def test_gwets_coefficients_are_those_of_all_pairs(counts: Numbers, *, ordinal: bool) -> None:
    weights = ordinal_weights(4) if ordinal else np.eye(4)
    ours, loops = gwet(counts, ordinal=ordinal).value, gwet_by_loops(counts, weights)
    assert ours == (None if loops is None else pytest.approx(loops))


def test_ordinal_weights_are_gwets() -> None:
    np.testing.assert_allclose(ordinal_weights(3), [[1, 2 / 3, 0], [2 / 3, 1, 2 / 3], [0, 2 / 3, 1]])


def test_with_equal_counts_alpha_is_fleiss_kappa_but_for_small_samples() -> None:
    counts = np.random.default_rng(0).multinomial(3, [0.5, 0.2, 0.2, 0.1], size=200).astype(np.float64)
    ratings = counts.sum()
    kappa = fleiss_kappa(counts, method="fleiss")
    assert alpha(counts, ordinal=False).value == pytest.approx(1 - (1 - kappa) * (ratings - 1) / ratings)


def test_unequal_counts_are_fine_where_fleiss_kappa_stops() -> None:
    counts = counts_of(PUBLISHED, 5)
    with pytest.raises(AssertionError):
        fleiss_kappa(counts, method="fleiss")
    assert alpha(counts, ordinal=False).value is not None


def test_without_variation_it_is_undefined_where_the_library_gives_nan_or_stops() -> None:
    fives = np.array([[0, 0, 0, 0, 3]] * 10, dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = krippendorff.alpha(
            value_counts=fives.astype(int), value_domain=[1, 2, 3, 4, 5], level_of_measurement="ordinal"
        )
    assert np.isnan(theirs)
    for ordinal in (True, False):
        for coefficient in (alpha(fives, ordinal=ordinal), gwet(fives, ordinal=ordinal)):
            assert (coefficient.value, coefficient.low, coefficient.high) == (None, None, None)
            assert coefficient.undefined == "undefined: no variation"


def test_single_ratings_make_no_pairs_and_say_so() -> None:
    lonely = np.eye(5)
    assert alpha(lonely, ordinal=True).undefined == NO_PAIRS
    assert gwet(lonely, ordinal=False).undefined == NO_PAIRS


def test_skewed_ratings_show_why_alpha_does_not_stand_alone() -> None:
    # The trap: 95 % fives, raw agreement above 0.9 and α near 0. AC2, raw agreement and the histogram show it.
    generator = np.random.default_rng(1)
    quality = np.where(generator.random((600, 3)) < 0.96, 5, generator.integers(1, 5, (600, 3)))
    ratings = Ratings(
        item=np.arange(600) // 3,
        rater=np.arange(600) % 3,
        item_root=np.arange(600) // 3,
        quality=quality.astype(np.float64),
        choice=np.zeros(600, dtype=np.int64),
        order=np.tile([0, 1, 2], (600, 1)),
    )
    found = quality_agreement(ratings)
    assert found.raw.value is not None
    assert found.raw.value > 0.9
    assert found.alpha.value == pytest.approx(0, abs=0.06)
    assert found.gwet.value is not None
    assert found.gwet.value > 0.9
    assert found.histogram[4] > 0.94 * sum(found.histogram)


def test_units_of_quality_are_items_and_systems_and_of_choices_items() -> None:
    ratings = drawn(3)
    quality, choice = quality_agreement(ratings), choice_agreement(ratings)
    table: dict[tuple[int, int], list[float]] = {}
    choices: dict[int, list[int]] = {}
    for row in range(len(ratings)):
        choices.setdefault(int(ratings.item[row]), []).append(int(ratings.choice[row]) % 4)
        for system in range(3):
            table.setdefault((int(ratings.item[row]), system), []).append(float(ratings.quality[row, system]))
    counts = np.array([[unit.count(value) for value in range(1, 6)] for unit in table.values()], dtype=np.float64)
    assert quality.alpha.value == pytest.approx(alpha_by_loops(counts, ordinal=True))
    assert quality.histogram == tuple(counts.sum(axis=0).astype(int))
    nominal = np.array([[unit.count(value) for value in range(4)] for unit in choices.values()], dtype=np.float64)
    assert choice.alpha.value == pytest.approx(alpha_by_loops(nominal, ordinal=False))
    assert choice.gwet.value == pytest.approx(gwet_by_loops(nominal, np.eye(4)))
    paired = nominal[nominal.sum(axis=1) > 1]
    raw = [(row * (row - 1)).sum() / (row.sum() * (row.sum() - 1)) for row in paired]
    assert choice.raw.value == pytest.approx(np.mean(raw))
    assert choice.units == len(paired)
    assert choice.within_one is None


def test_within_one_point_is_agreement_of_neighbours() -> None:
    ratings = drawn(4, items=1, lost=0.0)
    near = Ratings(**(ratings.columns() | {"quality": [[1, 1, 1], [2, 1, 4], [3, 1, 5]]}))
    found = quality_agreement(near)
    assert found.within_one is not None
    assert found.within_one.value == pytest.approx((2 / 3 + 1 + 1 / 3) / 3)
    assert found.raw.value == pytest.approx(1 / 3)


def test_identical_responses_are_one_category_of_the_choice() -> None:
    base = drawn(5, items=2, lost=0.0, items_per_root=1)
    columns = base.columns() | {"choice": [0, 1, 1, 2, 2, SAME]}
    assert choice_agreement(Ratings(**columns)).raw.value == pytest.approx((1 / 3 + 1 / 3) / 2)
    alike = Ratings(**columns, twins=[[0, 0, 1]] * 3 + [[0, 1, 2]] * 3)
    assert choice_agreement(alike).raw.value == pytest.approx((1 + 1 / 3) / 2)


def test_the_order_of_rows_changes_nothing() -> None:
    ratings = drawn(6)
    shuffled = ratings.rows(np.random.default_rng(0).permutation(len(ratings)))
    assert quality_agreement(shuffled) == quality_agreement(ratings)
    assert choice_agreement(shuffled) == choice_agreement(ratings)


def test_the_interval_is_the_jackknife_over_roots_done_by_leaving_each_out() -> None:
    ratings = drawn(7)
    whole = quality_agreement(ratings).alpha
    assert whole.value is not None
    without = []
    for root in np.unique(ratings.item_root):
        left = quality_agreement(ratings.rows(ratings.item_root != root)).alpha.value
        assert left is not None
        without.append(left)
    roots = len(without)
    error = np.sqrt((roots - 1) / roots * ((without - np.mean(without)) ** 2).sum())
    assert whole.low == pytest.approx(whole.value - t.ppf(0.975, roots - 1) * error)
    assert whole.high == pytest.approx(min(1, whole.value + t.ppf(0.975, roots - 1) * error))


def test_variation_in_a_single_root_gives_a_value_but_no_interval() -> None:
    base = drawn(8, items=4, lost=0.0, items_per_root=1)
    columns = base.columns() | {"quality": [[1, 5, 5]] * 3 + [[5, 5, 5]] * 9}
    found = quality_agreement(Ratings(**columns)).alpha
    assert found.value == 1
    assert (found.low, found.high) == (None, None)


def test_agreement_is_json_without_nan() -> None:
    nothing = drawn(9).rows(np.array([0]))
    for ratings in (drawn(9), nothing):
        for found in (quality_agreement(ratings), choice_agreement(ratings)):
            json.dumps(found.as_dict(), allow_nan=False)
