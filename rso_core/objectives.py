"""Several reward objectives: a weighted average of normalised rewards, one of the paper's directions for future work.

Every objective is a reward-ranking model. Its rewards are divided by their standard deviation over the whole pool, so that
weights compare objectives and not the scales of their logits: r = Σ w_k r_k / s_k / Σ w_k. What a prompt adds to all of its
rewards (the baseline) changes neither rejection sampling nor a comparison, so nothing is centred. β then counts in
standard deviations. Games are decided by the same average of logits: σ(Σ w_k logit ρ_k / s_k / Σ w_k).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rso_core.errors import UserError

Numbers = NDArray[np.float64]
_LEAST = 1e-12  # a spread below it is the rounding of equal rewards


def scale_of(rewards: ArrayLike) -> float:
    """Return the standard deviation of an objective's rewards over the pool; 1 where all are equal: it decides nothing."""
    spread = float(np.std(np.asarray(rewards, dtype=np.float64)))
    return spread if spread > _LEAST else 1.0


def weighted_average(values: Sequence[ArrayLike], weights: Sequence[float], scales: Sequence[float]) -> Numbers:
    """Return Σ w_k v_k / s_k / Σ w_k; `values` holds one vector an objective, [n] each; returns [n].

    Raises ValueError when lengths differ, or a weight or scale is not finite and above 0.
    """
    if not len(values) == len(weights) == len(scales) > 0:
        message = f"`values`, `weights` and `scales` must have one entry an objective, got {len(values)}, {len(weights)} and {len(scales)}"
        raise ValueError(message)
    for number in (*weights, *scales):
        if not (math.isfinite(number) and number > 0):
            message = f"weights and scales must be finite and above 0, got {number}"
            raise ValueError(message)
    parts = [w * np.asarray(v, dtype=np.float64) / s for v, w, s in zip(values, weights, scales, strict=True)]
    average: Numbers = np.sum(np.stack(parts), axis=0) / sum(weights)
    return average


def preference(probability: float) -> float:
    """Return the logit of a probability, within ±700 so that a certain model does not silence the others."""
    if probability <= 0 or probability >= 1:
        return math.copysign(700.0, probability - 0.5)
    return math.log(probability) - math.log1p(-probability)


def parse_objectives(text: str) -> list[tuple[str, float]]:
    """Return the (reward model, weight) pairs written as "name=weight, name=weight". Raises UserError."""
    found: list[tuple[str, float]] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = item.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name.strip() or not (math.isfinite(weight) and weight > 0):
            message = (
                f"an objective is written name=weight with a weight above 0, for example helpful=0.5; received {item!r}"
            )
            raise UserError(message)
        found.append((name.strip(), weight))
    return found
