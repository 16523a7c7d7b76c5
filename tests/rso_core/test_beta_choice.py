"""What β would do, from rewards that are known."""

import math

import numpy as np
import pytest

from rso_core.beta_choice import figures_by_beta

REWARDS = [np.random.default_rng(seed).normal(0, 1, 64) for seed in range(60)]


def test_more_is_accepted_and_worse_is_kept_as_beta_grows() -> None:
    found = figures_by_beta(REWARDS, num_samples=8)

    for name, sign in (("acceptance", 1), ("theorem1", 1), ("ess", 1), ("rounds", -1), ("mean_reward", -1), ("distinct_from_top", 1)):  # fmt: skip
        values = [sign * getattr(item, name) for item in found]
        assert values == sorted(values), name


def test_the_limits_are_top_k_and_a_random_choice() -> None:
    top, all_alike = figures_by_beta(REWARDS, num_samples=8, betas=(0.0, math.inf))

    assert top.mean_reward == pytest.approx(np.mean([np.sort(vector)[-8:].mean() for vector in REWARDS]))
    assert (top.rounds, top.ess, top.distinct_from_top) == (8, 1, 0)
    assert (all_alike.acceptance, all_alike.theorem1, all_alike.rounds, all_alike.ess) == (1, 1, 1, 64)
    assert all_alike.mean_reward == pytest.approx(np.mean(REWARDS), abs=0.15)


def test_theorem_1_and_the_effective_sample_size_are_their_definitions() -> None:
    vector = [0.0, 1.0, 2.0]
    (found,) = figures_by_beta([vector], num_samples=2, betas=(0.5,))

    weights = [math.exp((reward - 2.0) / 0.5) for reward in vector]
    assert found.theorem1 == pytest.approx(sum(weights) / 3)
    assert found.ess == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))


def test_without_prompts_there_is_nothing_to_say() -> None:
    with pytest.raises(ValueError, match="at least one prompt, got none"):
        figures_by_beta([], num_samples=2)
