"""Which candidates become new SFT targets: the selections of RAFT and ReST, without pairs.

RAFT takes the best candidate of each prompt: the winner of a tournament (`preference_pairs.rank`), or the highest
reward (`best`). ReST scales rewards to [0, 1] and takes those above a threshold (`above_threshold`). The scale is
between the lowest and the highest reward of the prompt (ours) or of all prompts (`normalize`).
"""

from collections.abc import Sequence
from typing import Literal

from rso_core.rejection_sampling import sample_many

Normalize = Literal["per_prompt", "global"]


def best(rewards: Sequence[Sequence[float]], seeds: Sequence[int]) -> list[list[int]]:
    """Return the position of the highest reward of each prompt, equal ones told apart by its seed; none of none.

    Raises UserError when a reward is not finite, ValueError when lengths differ.
    """
    # Rejection sampling at β = 0 is top-k with ties broken by seed.
    return [list(found.indices) for found in sample_many(rewards, num_samples=1, beta=0.0, seeds=seeds)]


def above_threshold(rewards: Sequence[Sequence[float]], threshold: float, normalize: Normalize) -> list[list[int]]:
    """Return the positions whose normalised reward is above `threshold`, by prompt; none where the scale has no length.

    Positions are in order. With a threshold below 1 the highest reward of the scale is always taken.
    """
    if not 0 <= threshold < 1:
        message = f"`threshold` must be at least 0 and below 1, got {threshold}"
        raise ValueError(message)
    everything = [value for one in rewards for value in one]
    scales = [(min(one), max(one)) if one else (0.0, 0.0) for one in rewards]
    if normalize == "global" and everything:
        scales = [(min(everything), max(everything))] * len(rewards)
    return [_above(one, *scale, threshold) for one, scale in zip(rewards, scales, strict=True)]


def _above(rewards: Sequence[float], low: float, high: float, threshold: float) -> list[int]:
    if high == low:
        return []
    return [i for i, reward in enumerate(rewards) if (reward - low) / (high - low) > threshold]
