"""Intervals over seeds and prompts: limits, invariances, pairing, coverage."""

import numpy as np
import pytest

from rso_core.study_statistics import Outcomes, mean_over_seeds, paired_over_seeds


def of(values: list[float], name: str = "") -> Outcomes:
    prompts = tuple(f"{name}{number}" for number in range(len(values)))
    return Outcomes(prompts, prompts, tuple(values))


def test_the_mean_is_that_of_the_seeds_means_whatever_the_number_of_prompts() -> None:
    found = mean_over_seeds({0: of([1.0, 1.0]), 1: of([0.0] * 6 + [1.0] * 2)})

    assert found.value == pytest.approx((1.0 + 0.25) / 2)
    assert (found.n, found.seeds) == (10, 2)
    assert found.low <= found.value <= found.high


def test_order_of_seeds_and_rows_does_not_matter() -> None:
    draw = np.random.default_rng(0)
    prompts = {seed: of(list(draw.random(30)), f"{seed}:") for seed in range(3)}
    turned = {
        seed: Outcomes(found.prompts[::-1], found.roots[::-1], found.values[::-1])
        for seed, found in reversed(prompts.items())
    }

    assert mean_over_seeds(prompts) == mean_over_seeds(turned)


def test_one_seed_is_the_bootstrap_over_its_roots() -> None:
    values = list(np.random.default_rng(1).random(400))
    found = mean_over_seeds({7: of(values)})

    error = np.std(values) / np.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_seeds_that_disagree_widen_the_interval() -> None:
    alike = {seed: of([0.0, 1.0] * 50, f"{seed}:") for seed in range(4)}
    apart = {seed: of([float(seed % 2)] * 95 + [1.0 - seed % 2] * 5, f"{seed}:") for seed in range(4)}

    narrow, wide = mean_over_seeds(alike), mean_over_seeds(apart)
    assert narrow.value == wide.value == 0.5
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_prompts_that_all_seeds_share_are_drawn_for_all_at_once() -> None:
    """The same values at four seeds are worth one seed when the prompts are the same, and more when they differ."""
    values = list(np.random.default_rng(2).random(200))
    crossed = mean_over_seeds({seed: of(values) for seed in range(4)})
    nested = mean_over_seeds({seed: of(values, f"{seed}:") for seed in range(4)})
    one = mean_over_seeds({0: of(values)})

    assert crossed.high - crossed.low == pytest.approx(one.high - one.low, rel=0.05)
    assert nested.high - nested.low < 0.8 * (crossed.high - crossed.low)


def test_where_nothing_varies_the_interval_allows_for_what_was_not_seen() -> None:
    found = mean_over_seeds({0: of([1.0] * 20, "a"), 1: of([1.0] * 20, "b")})

    assert found.value == 1.0
    assert 0.8 < found.low < 1.0
    assert mean_over_seeds({0: of([0.0] * 20)}, (-1.0, 1.0)).p == 1.0


def test_pairing_takes_out_what_the_prompts_do_to_both() -> None:
    draw = np.random.default_rng(3)
    base = {seed: draw.random(100) for seed in range(3)}
    theirs = {seed: of(list(values), f"{seed}:") for seed, values in base.items()}
    ours = {seed: of(list(values + 0.01 + 0.001 * draw.random(100)), f"{seed}:") for seed, values in base.items()}

    found = paired_over_seeds(ours, theirs)
    assert found is not None
    assert found.low > 0.009
    assert found.p < 0.001
    turned = paired_over_seeds(theirs, ours)
    assert turned is not None
    assert turned.value == pytest.approx(-found.value)
    assert paired_over_seeds(ours, ours) is not None
    assert paired_over_seeds(ours, ours).p == 1.0  # type: ignore[union-attr]


def test_only_shared_seeds_are_compared_and_only_on_the_same_prompts() -> None:
    ours, theirs = {0: of([1.0]), 1: of([0.0])}, {1: of([1.0]), 2: of([0.0])}

    found = paired_over_seeds(ours, theirs)
    assert found is not None
    assert (found.value, found.seeds) == (-1.0, 1)
    assert paired_over_seeds({0: of([1.0])}, {1: of([1.0])}) is None
    with pytest.raises(ValueError, match="different prompts at seed 0"):
        paired_over_seeds({0: of([1.0], "a")}, {0: of([1.0], "b")})


def test_no_seed_at_all_is_a_programmers_error() -> None:
    with pytest.raises(ValueError, match="at least one seed, got none"):
        mean_over_seeds({})


@pytest.mark.parametrize(("seed_sd", "lowest"), [(0.0, 0.95), (0.03, 0.92), (0.08, 0.80)])
def test_five_seeds_cover_the_truth_about_95_times_in_100(seed_sd: float, lowest: float) -> None:
    draw = np.random.default_rng(4)
    covered = 0
    for _ in range(80):
        by_seed = {
            seed: of(list((draw.random(60) < 0.6 + seed_sd * draw.standard_normal()).astype(float)), f"{seed}:")
            for seed in range(5)
        }
        found = mean_over_seeds(by_seed)
        covered += found.low <= 0.6 <= found.high
    assert covered / 80 >= lowest


def test_prompts_that_one_of_two_arms_does_not_have_are_left_out_of_the_difference() -> None:
    ours = {0: Outcomes(("a", "b", "c"), ("a", "b", "c"), (1.0, 1.0, 0.0))}
    theirs = {0: Outcomes(("c", "b", "d"), ("c", "b", "d"), (1.0, 0.0, 1.0))}

    found = paired_over_seeds(ours, theirs)
    assert found is not None
    assert (found.value, found.n) == (0.0, 2)
