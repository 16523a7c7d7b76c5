"""What a campaign can show before it is run: power and interval widths for N prompts and k raters of each.

The model. A prompt has its own chances that a vote goes to each system, drawn from a Dirichlet distribution about the
systems' overall shares; `concentration` 4 means that prompts differ much, a large one that they hardly differ. A vote
is "same" with chance `same_share`. The test is the paired one of `human_eval`, on vote shares, without Holm's
correction. The first two systems are `gap` apart; a third is as good as the second.

Then the difference of an item's votes has variance v + (u − v) / k, where u is that of a single vote and v what the
prompts' chances account for: both are moments of the Dirichlet distribution, and the power follows from the normal
distribution. `tests/rso_core/test_human_eval_power.py` holds the table against simulated campaigns.
"""

from dataclasses import dataclass
from math import sqrt

from rso_core.distributions import normal_cdf, normal_quantile, t_quantile

PROMPTS = (50, 100, 200, 400, 800)
RATERS = (1, 3, 5)
GAPS = (0.05, 0.10, 0.15)
_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is supposed of a campaign that has not been run."""

    systems: int = 3
    same_share: float = 0.1
    concentration: float = 4.0

    def __post_init__(self) -> None:
        if self.systems < 2 or not 0 <= self.same_share < 1 or self.concentration <= 0:  # noqa: PLR2004
            message = f"`systems` ≥ 2, 0 ≤ `same_share` < 1 and `concentration` > 0 are required, got {self}"
            raise ValueError(message)


PAPER_LIKE = Assumptions()


@dataclass(frozen=True)
class PowerRow:
    """What N prompts and k raters show: power by gap, the half-widths of 95 % intervals, the gap seen with 80 %."""

    prompts: int
    raters: int
    power: dict[float, float]  # gap in vote share: chance that the test sees it
    share_half_width: float  # of a vote share of 40 %
    difference_half_width: float  # of a difference of 0
    detectable: float | None  # the gap seen with a chance of 80 %; None when no possible gap is


def power_table(
    prompts: tuple[int, ...] = PROMPTS,
    raters: tuple[int, ...] = RATERS,
    gaps: tuple[float, ...] = GAPS,
    assumptions: Assumptions = PAPER_LIKE,
) -> list[PowerRow]:
    """Return a row for each number of prompts and raters."""
    return [
        PowerRow(
            prompts=n,
            raters=k,
            power={gap: power(n, k, gap, assumptions) for gap in gaps if gap <= largest_gap(assumptions)},
            share_half_width=share_half_width(n, k, 0.4, assumptions),
            difference_half_width=difference_half_width(n, k, 0.0, assumptions),
            detectable=detectable_gap(n, k, assumptions),
        )
        for n in prompts
        for k in raters
    ]


def power(prompts: int, raters: int, gap: float, assumptions: Assumptions = PAPER_LIKE) -> float:
    """Return the chance that systems `gap` apart in vote share (0.1: ten points) are told apart at 5 %."""
    shift = gap / _standard_error(prompts, raters, gap, assumptions)
    critical = t_quantile(1 - _LEVEL / 2, prompts - 1)
    return normal_cdf(shift - critical) + normal_cdf(-shift - critical)


def difference_half_width(prompts: int, raters: int, gap: float, assumptions: Assumptions = PAPER_LIKE) -> float:
    """Return half the width of the 95 % interval of a difference in vote share."""
    return t_quantile(1 - _LEVEL / 2, prompts - 1) * _standard_error(prompts, raters, gap, assumptions)


def share_half_width(prompts: int, raters: int, share: float, assumptions: Assumptions = PAPER_LIKE) -> float:
    """Return half the width of the 95 % interval of one system's vote share."""
    decided = 1 - assumptions.same_share
    overall = min(share / decided, 1.0)
    by_prompt = decided**2 * overall * (1 - overall) / (assumptions.concentration + 1)
    single_vote = share * (1 - share)
    variance = by_prompt + (single_vote - by_prompt) / raters
    return t_quantile(1 - _LEVEL / 2, prompts - 1) * sqrt(variance / prompts)


def detectable_gap(
    prompts: int, raters: int, assumptions: Assumptions = PAPER_LIKE, *, wanted: float = 0.8
) -> float | None:
    """Return the smallest gap that is seen with the chance `wanted`; None when no possible gap is."""
    low, high = 0.0, largest_gap(assumptions)
    if power(prompts, raters, high, assumptions) < wanted:
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(prompts, raters, middle, assumptions) >= wanted else (middle, high)
    return high


def largest_gap(assumptions: Assumptions) -> float:
    """Return the gap of a system that gets every vote that is not "same"."""
    return 1 - assumptions.same_share


def overall_shares(gap: float, assumptions: Assumptions) -> list[float]:
    """Return the systems' shares of the votes that are not "same": the first ahead, the others as good as each other.

    Raises ValueError for a gap that no shares can have.
    """
    if not 0 <= gap <= largest_gap(assumptions):
        message = f"`gap` must be from 0 to {largest_gap(assumptions):g}, what is not “same”, got {gap}"
        raise ValueError(message)
    decided = gap / (1 - assumptions.same_share)
    other = (1 - decided) / assumptions.systems
    return [other + decided] + [other] * (assumptions.systems - 1)


def _standard_error(prompts: int, raters: int, gap: float, assumptions: Assumptions) -> float:
    if prompts < 2 or raters < 1:  # noqa: PLR2004
        message = f"`prompts` must be 2 or above and `raters` 1 or above, got {prompts} and {raters}"
        raise ValueError(message)
    first, second, *_ = overall_shares(gap, assumptions)
    decided = 1 - assumptions.same_share
    by_prompt = decided**2 * (first + second - (first - second) ** 2) / (assumptions.concentration + 1)
    single_vote = decided * (first + second) - gap**2
    return sqrt((by_prompt + (single_vote - by_prompt) / raters) / prompts)


def prompts_needed(gap: float, raters: int, assumptions: Assumptions = PAPER_LIKE, *, wanted: float = 0.8) -> int:
    """Return how many prompts show a gap with the chance `wanted`, to about one prompt in a hundred."""
    quantiles = normal_quantile(1 - _LEVEL / 2) + normal_quantile(wanted)
    one_prompt = _standard_error(2, raters, gap, assumptions) * sqrt(2)
    found = max(2, int((quantiles * one_prompt / gap) ** 2))
    while power(found, raters, gap, assumptions) < wanted:
        found += max(1, found // 100)
    return found
