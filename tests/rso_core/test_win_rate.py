import json
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rso_core.errors import UserError
from rso_core.vocabulary import canonical_json
from rso_core.win_rate import Interval, paired_difference, win_rate

CASES = json.loads((Path(__file__).parent / "cases" / "win_rate.json").read_text(encoding="utf-8"))

outcomes = st.sampled_from([0.0, 0.5, 1.0])
rows = st.lists(st.tuples(outcomes, st.integers(0, 5)), min_size=1, max_size=15)


def every_sample(values: Sequence[float], clusters: Sequence[int]) -> list[float]:
    """Return the rate of every sample of the clusters with replacement: the bootstrap distribution, exactly."""
    groups = [[v for v, c in zip(values, clusters, strict=True) if c == name] for name in sorted(set(clusters))]
    rates = []
    for drawn in product(groups, repeat=len(groups)):
        joined = [value for group in drawn for value in group]
        rates.append(sum(joined) / len(joined))
    return rates


def test_the_interval_is_that_of_the_enumerated_bootstrap_distribution() -> None:
    values, clusters = [1, 1, 0, 0.5, 0, 1, 1, 0], [0, 0, 1, 2, 2, 3, 4, 4]
    exact = np.sort(every_sample(values, clusters))
    found = win_rate(values, clusters, draws=40_000, seed=0)
    # The quantile of the draws lies between those of neighbouring levels.
    assert np.quantile(exact, 0.02) - 1e-9 <= found.low <= np.quantile(exact, 0.03) + 1e-9
    assert np.quantile(exact, 0.97) - 1e-9 <= found.high <= np.quantile(exact, 0.98) + 1e-9
    assert found.value == sum(values) / len(values)
    assert found.n == 8


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_known_answers(case: dict[str, Any]) -> None:
    found = win_rate(case["values"], case["clusters"], draws=2000, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((case["value"], case["low"], case["high"]))


@given(rows, st.integers(0, 100))
@settings(deadline=None, max_examples=60)
def test_an_interval_is_ordered_bounded_and_never_a_single_point(sample: list[tuple[float, int]], seed: int) -> None:
    values, clusters = [v for v, _ in sample], [c for _, c in sample]
    found = win_rate(values, clusters, draws=300, seed=seed)
    assert found.value == pytest.approx(sum(values) / len(values))
    assert 0 <= found.low <= found.high <= 1
    assert found.low < found.high  # nothing measured is certain
    assert json.loads(canonical_json(found.as_dict())) == found.as_dict()


@given(rows, st.data())
@settings(deadline=None, max_examples=60)
def test_the_order_of_the_rows_does_not_matter(sample: list[tuple[float, int]], data: st.DataObject) -> None:
    moved = data.draw(st.permutations(sample))
    one, other = (win_rate([v for v, _ in s], [f"root {c}" for _, c in s], draws=200, seed=3) for s in (sample, moved))
    assert one == other


def test_the_order_of_the_rows_does_not_matter_to_the_last_digit() -> None:
    values, clusters = [0.1, 0.2, 0.3, 0.9], ["a", "a", "a", "b"]
    assert (0.1 + 0.2) + 0.3 != (0.3 + 0.2) + 0.1  # why outcomes are sorted before they are added up
    turned = win_rate(values[::-1], clusters[::-1], draws=200, seed=0)
    assert win_rate(values, clusters, draws=200, seed=0) == turned


@given(rows)
@settings(deadline=None, max_examples=60)
def test_losses_mirror_wins(sample: list[tuple[float, int]]) -> None:
    clusters = [c for _, c in sample]
    won = win_rate([v for v, _ in sample], clusters, draws=200, seed=3)
    lost = win_rate([1 - v for v, _ in sample], clusters, draws=200, seed=3)
    assert (lost.value, lost.low, lost.high) == pytest.approx((1 - won.value, 1 - won.high, 1 - won.low))


@given(st.lists(st.tuples(outcomes, outcomes, st.integers(0, 5)), min_size=1, max_size=15))
@settings(deadline=None, max_examples=60)
def test_a_difference_is_antisymmetric_and_of_equals_is_zero(sample: list[tuple[float, float, int]]) -> None:
    ours, theirs, clusters = [a for a, _, _ in sample], [b for _, b, _ in sample], [c for _, _, c in sample]
    found = paired_difference(ours, theirs, clusters, draws=200, seed=1)
    turned = paired_difference(theirs, ours, clusters, draws=200, seed=1)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert found.value == pytest.approx(np.mean(ours) - np.mean(theirs))
    same = paired_difference(ours, ours, clusters, draws=200, seed=1)
    assert same.value == 0
    assert same.low < 0 < same.high


def test_one_seed_gives_one_interval_and_another_seed_hardly_another() -> None:
    rng = np.random.default_rng(0)
    values, clusters = rng.integers(0, 2, 300), list(range(300))
    found = win_rate(values, clusters, draws=2000, seed=7)
    assert found == win_rate(values, clusters, draws=2000, seed=7)
    other = win_rate(values, clusters, draws=2000, seed=8)
    assert (other.low, other.high) == pytest.approx((found.low, found.high), abs=0.01)


def test_many_conversations_are_drawn_in_batches_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = [1.0, 0.0] * 50, list(range(100))
    whole = win_rate(values, clusters, draws=500, seed=0)
    monkeypatch.setattr("rso_core.win_rate._CELLS_AT_ONCE", 700)
    assert win_rate(values, clusters, draws=500, seed=0) == whole


def test_without_clusters_the_interval_has_the_width_of_the_binomial() -> None:
    values = [1.0] * 300 + [0.0] * 100
    found = win_rate(values, list(range(400)), draws=4000, seed=0)
    half_width = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert found.low == pytest.approx(0.75 - half_width, abs=0.006)
    assert found.high == pytest.approx(0.75 + half_width, abs=0.006)


def test_prompts_that_repeat_their_conversation_s_outcome_add_no_certainty() -> None:
    rng = np.random.default_rng(1)
    won = rng.integers(0, 2, 60).astype(float)
    one_each = win_rate(won, list(range(60)), draws=2000, seed=0)
    ten_each = win_rate(np.repeat(won, 10), np.repeat(range(60), 10).tolist(), draws=2000, seed=0)
    assert (ten_each.low, ten_each.high) == pytest.approx((one_each.low, one_each.high))
    naive = win_rate(np.repeat(won, 10), list(range(600)), draws=2000, seed=0)
    assert naive.high - naive.low < 0.4 * (ten_each.high - ten_each.low)


def coverage(intervals: Sequence[Interval], truth: float) -> float:
    return sum(one.low <= truth <= one.high for one in intervals) / len(intervals)


def test_95_percent_intervals_cover_the_truth_about_95_times_in_100() -> None:
    """Conversations of 1 to 5 prompts whose win probabilities are spread evenly: the truth is one half."""
    rng = np.random.default_rng(2)
    clustered, naive, paired = [], [], []
    for seed in range(400):
        sizes = rng.integers(1, 6, size=80)
        clusters = np.repeat(range(80), sizes)
        difficulty = rng.uniform(size=80)[clusters]
        ours = (rng.uniform(size=len(clusters)) < difficulty).astype(float)
        theirs = (rng.uniform(size=len(clusters)) < difficulty).astype(float)
        clustered.append(win_rate(ours, clusters.tolist(), draws=400, seed=seed))
        naive.append(win_rate(ours, list(range(len(clusters))), draws=400, seed=seed))
        paired.append(paired_difference(ours, theirs, clusters.tolist(), draws=400, seed=seed))
    assert 0.91 < coverage(clustered, 0.5) < 0.98
    assert 0.91 < coverage(paired, 0.0) < 0.98
    assert coverage(naive, 0.5) < coverage(clustered, 0.5) - 0.03  # why conversations are drawn whole


def test_pairing_takes_out_what_the_prompts_do_to_both() -> None:
    rng = np.random.default_rng(4)
    theirs = rng.integers(0, 2, 300).astype(float)
    ours = np.where(rng.uniform(size=300) < 0.1, 1.0, theirs)
    found = paired_difference(ours, theirs, list(range(300)), draws=1000, seed=0)
    apart = win_rate(ours, list(range(300)), draws=1000, seed=0)
    assert found.high - found.low < 0.7 * (apart.high - apart.low)


def test_nothing_to_measure_is_the_user_s_matter() -> None:
    with pytest.raises(UserError, match="needs at least one prompt, got none"):
        win_rate([], [], draws=200, seed=0)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the same length, got shape \(1,\) and 2"):
        win_rate([1.0], ["a", "b"], draws=200, seed=0)
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"from 0 \(loss\) to 1 \(win\), got"):
            win_rate([1.0, wrong], ["a", "b"], draws=200, seed=0)
    with pytest.raises(ValueError, match="`draws` must be 1 or above, got 0"):
        win_rate([1.0], ["a"], draws=0, seed=0)
