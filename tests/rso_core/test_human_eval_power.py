from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from rso_core.human_eval_power import (
    Assumptions,
    detectable_gap,
    difference_half_width,
    overall_shares,
    power,
    power_table,
    prompts_needed,
    share_half_width,
)

# N prompts, 3 raters, 10 % same, concentration 4: power for gaps of 5, 10 and 15 points, simulated independently
# before this table was written, from some hundreds of campaigns each.
SIMULATED = {100: (0.16, 0.50, 0.81), 200: (0.29, 0.76, 0.98), 400: (0.47, 0.97, 1.0), 800: (0.77, 1.0, 1.0)}


def simulated(
    prompts: int, raters: int, gap: float, *, campaigns: int, assumptions: Assumptions
) -> tuple[float, float]:
    """Return the power of the paired t-test on vote shares and the standard deviation of a share of 40 %, simulated."""
    generator = np.random.default_rng(prompts + raters)
    shares = np.array(overall_shares(gap, assumptions))
    chances = generator.dirichlet(assumptions.concentration * shares, (campaigns, prompts))
    chances = np.concatenate(
        [chances * (1 - assumptions.same_share), np.full((campaigns, prompts, 1), assumptions.same_share)], axis=2
    )
    votes = generator.multinomial(raters, chances / chances.sum(axis=2, keepdims=True)) / raters
    differences = votes[..., 0] - votes[..., 1]
    rejected = stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05
    return float(rejected.mean()), float(votes[..., 0].mean(axis=1).std())


@pytest.mark.parametrize("prompts", SIMULATED)
def test_power_is_that_of_the_research_within_its_noise(prompts: int) -> None:
    found = [power(prompts, 3, gap) for gap in (0.05, 0.10, 0.15)]
    assert found == pytest.approx(SIMULATED[prompts], abs=0.045)


def test_more_prompts_beat_more_raters() -> None:
    assert power(200, 5, 0.10) == pytest.approx(0.86, abs=0.02)
    assert power(400, 3, 0.10) == pytest.approx(0.96, abs=0.02)


@pytest.mark.parametrize(
    ("prompts", "raters", "gap", "assumptions"),
    [
        (50, 3, 0.15, Assumptions()),
        (100, 3, 0.10, Assumptions()),
        (200, 3, 0.10, Assumptions()),
        (200, 5, 0.05, Assumptions()),
        (100, 1, 0.15, Assumptions()),
        (100, 3, 0.20, Assumptions(systems=2, same_share=0.3, concentration=10)),
        (100, 3, 0.00, Assumptions(systems=2)),
    ],
)
def test_power_is_that_of_simulated_campaigns(prompts: int, raters: int, gap: float, assumptions: Assumptions) -> None:
    found, _ = simulated(prompts, raters, gap, campaigns=2000, assumptions=assumptions)
    assert power(prompts, raters, gap, assumptions) == pytest.approx(found, abs=0.03)


@pytest.mark.parametrize(("prompts", "points"), [(100, 6.6), (200, 4.6), (500, 2.9), (1000, 2.1)])
def test_the_half_width_of_40_percent_is_that_of_the_research(prompts: int, points: float) -> None:
    assert 100 * share_half_width(prompts, 3, 0.4) == pytest.approx(points, abs=0.15)


def test_half_widths_are_those_of_simulated_campaigns() -> None:
    gap = 0.15  # the first of three then has a share of 40 %
    assert overall_shares(gap, Assumptions())[0] * 0.9 == pytest.approx(0.4)
    _, deviation = simulated(200, 3, gap, campaigns=2000, assumptions=Assumptions())
    assert share_half_width(200, 3, 0.4) == pytest.approx(stats.t.ppf(0.975, 199) * deviation, rel=0.05)


def test_the_table_has_a_row_for_each_size_and_gets_better_with_it() -> None:
    table = power_table()
    assert len(table) == 15
    by_size = {(row.prompts, row.raters): row for row in table}
    assert by_size[200, 3].power[0.10] == power(200, 3, 0.10)
    for raters in (1, 3, 5):
        rows = [by_size[prompts, raters] for prompts in (50, 100, 200, 400, 800)]
        assert [row.difference_half_width for row in rows] == sorted(
            (row.difference_half_width for row in rows), reverse=True
        )
        assert all(later.power[0.05] > row.power[0.05] for row, later in pairwise(rows))


def test_the_detectable_gap_and_the_prompts_needed_give_the_power_asked_for() -> None:
    gap = detectable_gap(200, 3)
    assert gap is not None
    assert power(200, 3, gap) == pytest.approx(0.8, abs=1e-6)
    assert prompts_needed(gap, 3) == pytest.approx(200, abs=2)
    assert power(prompts_needed(0.1, 3), 3, 0.1) >= 0.8
    assert detectable_gap(2, 1) is None


def test_gaps_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`gap` must be from 0 to 0\.9"):
        overall_shares(0.95, Assumptions())
    with pytest.raises(ValueError, match="`prompts` must be 2 or above"):
        power(1, 3, 0.1)
    with pytest.raises(ValueError, match="`same_share` < 1"):
        Assumptions(same_share=1)


def test_a_table_leaves_out_gaps_that_cannot_be() -> None:
    row = power_table((100,), (3,), (0.1, 0.6), Assumptions(same_share=0.5))[0]
    assert set(row.power) == {0.1}
    assert difference_half_width(100, 3, 0.0) > 0
