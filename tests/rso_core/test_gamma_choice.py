"""What γ means for the losses, from rewards that are known."""

import math

import numpy as np
import pytest

from rso_core.gamma_choice import figures_by_gamma

REWARDS = [np.random.default_rng(seed).normal(0, 1, 64) for seed in range(60)]


def test_a_larger_slope_stops_the_hinge_earlier_and_takes_pairs_for_more_decided() -> None:
    found = figures_by_gamma(REWARDS, num_samples=8, beta=0.5)

    for name, sign in (("margin", -1), ("beyond", 1), ("decided", 1)):
        values = [sign * getattr(item, name) for item in found]
        assert values == sorted(values), name
    assert len({item.labelled for item in found}) == 1


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_at_gamma_equal_to_beta_the_loss_believes_what_the_rewards_say(beta: float) -> None:
    (found,) = figures_by_gamma(REWARDS, num_samples=8, beta=beta, gammas=(beta,))

    assert found.decided == pytest.approx(found.labelled)


def test_the_figures_of_one_pair_are_their_definitions() -> None:
    rewards = [[0.0, 1.2]]
    weak, strong = figures_by_gamma(rewards, num_samples=2, beta=0.5, gammas=(0.1, 1.0))

    assert (weak.margin, weak.beyond) == (10.0, 0.0)  # the target policy wants 2.4 nats
    assert (strong.margin, strong.beyond) == (1.0, 1.0)
    assert weak.decided == pytest.approx(1 / (1 + math.exp(-0.24)))
    assert weak.labelled == pytest.approx(1 / (1 + math.exp(-1.2)))


def test_an_odd_one_out_makes_no_pair() -> None:
    (found,) = figures_by_gamma([[0.0, 0.0, 0.0]], num_samples=3, beta=1, gammas=(1.0,))
    assert found.decided == 0.5


@pytest.mark.parametrize("beta", [0.0, math.inf])
def test_without_a_finite_target_there_is_nothing_to_say(beta: float) -> None:
    with pytest.raises(ValueError, match="a β above 0 and finite"):
        figures_by_gamma(REWARDS, num_samples=8, beta=beta)


def test_without_pairs_there_is_nothing_to_say() -> None:
    for rewards in ([], [[1.0]]):
        with pytest.raises(ValueError, match="at least two candidates of a prompt, got none"):
            figures_by_gamma(rewards, num_samples=2, beta=1)
