import math
import random
from itertools import pairwise

import pytest

from rso_core.candidate_targets import above_threshold, best
from rso_core.errors import UserError


def plainly(rewards: list[list[float]], threshold: float, normalize: str) -> list[list[int]]:
    """ReST's selection as a loop over prompts and candidates."""
    found = []
    for one in rewards:
        scale = one if normalize == "per_prompt" else [value for other in rewards for value in other]
        low, high = min(scale), max(scale)
        found.append([i for i, value in enumerate(one) if high > low and (value - low) / (high - low) > threshold])
    return found


def drawn(prompts: int, candidates: int, seed: int) -> list[list[float]]:
    draw = random.Random(seed)  # noqa: S311
    return [[draw.gauss(prompt, 1) for _ in range(candidates)] for prompt in range(prompts)]


@pytest.mark.parametrize("normalize", ["per_prompt", "global"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 0.95])
def test_what_is_above_the_threshold_is_the_plain_loop(normalize: str, threshold: float) -> None:
    rewards = drawn(5, 9, seed=1)
    assert above_threshold(rewards, threshold, normalize) == plainly(rewards, threshold, normalize)  # type: ignore[arg-type]


def test_known_answers() -> None:
    rewards = [[0.0, 10.0, 7.0, 7.1], [5.0, 6.0, 5.5]]
    assert above_threshold(rewards, 0.7, "per_prompt") == [[1, 3], [1]]
    assert above_threshold(rewards, 0.7, "global") == [[1, 3], []]


def test_a_scale_without_length_chooses_nobody_and_the_other_prompts_are_not_touched() -> None:
    assert above_threshold([[2.0, 2.0], [1.0, 3.0], []], 0.7, "per_prompt") == [[], [1], []]
    assert above_threshold([[2.0, 2.0], [2.0]], 0.7, "global") == [[], []]


def test_shift_and_scale_of_the_rewards_change_nothing() -> None:
    rewards = drawn(4, 7, seed=2)
    moved = [[4 * value - 8 for value in one] for one in rewards]
    for normalize in ("per_prompt", "global"):
        assert above_threshold(moved, 0.5, normalize) == above_threshold(rewards, 0.5, normalize)  # type: ignore[arg-type]


def test_a_higher_threshold_chooses_a_part_of_what_a_lower_one_does_and_never_drops_the_best() -> None:
    rewards = drawn(6, 8, seed=3)
    chosen = [above_threshold(rewards, threshold, "per_prompt") for threshold in (0.1, 0.5, 0.999)]
    for many, fewer in pairwise(chosen):
        assert all(set(b) <= set(a) for a, b in zip(many, fewer, strict=True))
    assert chosen[-1] == [[one.index(max(one))] for one in rewards]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"`threshold` must be at least 0 and below 1, got {threshold}"):
        above_threshold([[1.0, 2.0]], threshold, "per_prompt")


def test_the_best_is_the_highest_reward_and_none_of_none() -> None:
    rewards = [*drawn(5, 6, seed=4), []]
    expected = [[one.index(max(one))] if one else [] for one in rewards]
    assert best(rewards, seeds=range(6)) == expected


def test_equal_rewards_are_told_apart_by_the_seed() -> None:
    chosen = [best([[1.0, 1.0, 0.0]], seeds=[seed])[0][0] for seed in range(200)]
    assert 60 < sum(chosen) < 140
    assert set(chosen) == {0, 1}
    assert chosen == [best([[1.0, 1.0, 0.0]], seeds=[seed])[0][0] for seed in range(200)]


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="candidate 1 of prompt number 0 is nan"):
        best([[0.0, math.nan]], seeds=[0])
