from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from rso_core.cluster_statistics import MOST_CLUSTERS_ENUMERATED, clustered, expanded_tail, holm
from rso_core.win_rate import win_rate


def by_root(clusters: int, seed: int, quantities: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return values [I, k] of items in roots of one to three."""
    generator = np.random.default_rng(seed)
    roots = np.repeat(np.arange(clusters), generator.integers(1, 4, clusters))
    return generator.choice([-1.0, 0.0, 1 / 3, 1.0], (len(roots), quantities)), roots


@pytest.mark.parametrize("seed", range(10))
def test_holm_is_that_of_statsmodels(seed: int) -> None:
    p_values = np.random.default_rng(seed).choice([0.0, 0.001, 0.01, 0.02, 0.025, 0.04, 0.3, 1.0], seed + 1).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_standard_errors_are_those_of_clustered_least_squares() -> None:
    values, roots = by_root(30, 1)
    ours = clustered(values, roots).standard_errors()
    for column, error in zip(values.T, ours, strict=True):
        fit = OLS(column, np.ones(len(column))).fit(
            cov_type="cluster", cov_kwds={"groups": roots, "use_correction": False}
        )
        assert error == pytest.approx(fit.bse[0] * np.sqrt(30 / 29))


def test_with_one_item_per_root_the_test_is_students() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, (40, 2))
    ours = clustered(values, np.arange(40)).p_values()
    assert ours == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


@pytest.mark.parametrize("clusters", [1, 2, 5, 8])
def test_for_few_clusters_every_way_of_turning_the_signs_is_counted(clusters: int) -> None:
    values, roots = by_root(clusters, clusters)
    sums = clustered(values, roots).sums
    patterns = np.array(list(product([1, -1], repeat=clusters)))
    expected = (np.abs(patterns @ sums) >= np.abs(sums.sum(axis=0)) - 1e-9).mean(axis=0)
    assert clustered(values, roots).p_values() == pytest.approx(expected)


def test_both_tests_agree_where_one_hands_over_to_the_other() -> None:
    values = np.random.default_rng(3).normal(0.4, 1, (MOST_CLUSTERS_ENUMERATED, 20))
    exact = clustered(values, np.arange(len(values))).p_values()
    assert exact == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)


@pytest.mark.parametrize("clusters", [2, 5, 10, 17, 30])
def test_the_tests_keep_their_level_however_few_the_clusters(clusters: int) -> None:
    generator = np.random.default_rng(clusters)
    differences = generator.choice([-1, -1 / 3, 0, 1 / 3, 1], (2000, clusters))
    p_values = [clustered(row[:, None], np.arange(clusters)).p_values()[0] for row in differences]
    assert np.mean(np.array(p_values) < 0.05) < 0.065


def test_the_same_difference_everywhere_is_as_sure_as_that_all_signs_agree() -> None:
    assert clustered(np.full((20, 1), 0.5), np.arange(20)).p_values() == [2.0**-19]
    assert clustered(np.zeros((20, 1)), np.arange(20)).p_values() == [1.0]


@pytest.mark.parametrize("seed", range(3))
def test_with_many_clusters_the_interval_is_that_of_win_rates_bootstrap(seed: int) -> None:
    values, roots = by_root(400, seed, quantities=1)
    values = (values + 1) / 2
    ours = clustered(values, roots).intervals([(0.0, 1.0)], draws=300, seed=seed)[0]
    theirs = win_rate(values[:, 0], roots.tolist(), draws=300, seed=seed)
    assert ours.value == pytest.approx(theirs.value)
    assert ours.low == pytest.approx(theirs.low, abs=0.01)  # the tail is a little further out, the roots' order another
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_an_expanded_interval_is_students_where_means_are_normal() -> None:
    values = np.random.default_rng(4).normal(0, 1, (12, 1))
    found = clustered(values, np.arange(12)).intervals([(-9.0, 9.0)], draws=40_000, seed=0)[0]
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values)[0])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1)
    assert expanded_tail(12) < 0.025
    assert expanded_tail(100_000) == pytest.approx(0.025, abs=1e-5)
    assert expanded_tail(1) == 0


def test_where_nothing_varies_the_interval_is_that_of_what_was_not_seen() -> None:
    found = clustered(np.ones((20, 1)), np.arange(20)).intervals([(0.0, 1.0)], draws=10, seed=0)[0]
    assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)


def test_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="`draws` must be 1 or above, got 0"):
        clustered(np.ones((2, 1)), np.arange(2)).intervals([(0.0, 1.0)], draws=0, seed=0)


def test_a_share_of_few_events_has_wilsons_interval_for_as_many_items_as_it_is_worth() -> None:
    values = np.zeros((200, 2))
    values[:3, 0], values[:60, 1] = 1, 1
    rare, common = clustered(values, np.arange(200)).intervals([(0.0, 1.0)] * 2, draws=2000, seed=0)
    # Student's t instead of the normal quantile, and 199 items' worth.
    low, high = proportion_confint(3, 200, method="wilson")
    assert (rare.low, rare.high) == pytest.approx((low, high), abs=5e-4)
    low, high = proportion_confint(60, 200, method="normal")
    assert (common.low, common.high) == pytest.approx((low, high), abs=0.01)
    twice = clustered(np.repeat(values, 2, axis=0), np.repeat(np.arange(200), 2))
    again = twice.intervals([(0.0, 1.0)] * 2, draws=2000, seed=0)[0]
    assert (again.low, again.high) == pytest.approx((rare.low, rare.high))


def test_intervals_of_rare_events_hold_the_truth() -> None:
    generator = np.random.default_rng(0)
    held = []
    for _ in range(400):
        values = (generator.random((200, 1)) < 0.028).astype(float)
        found = clustered(values, np.arange(200)).intervals([(0.0, 1.0)], draws=50, seed=0)[0]
        held.append(found.low <= 0.028 <= found.high)
    assert np.mean(held) >= 0.935
