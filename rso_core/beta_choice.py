"""What a temperature β would do to rewards that are known already: to choose it before anything is sampled again."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rso_core.rejection_sampling import sample_many
from rso_core.win_rate import Vector

BETAS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class BetaFigures:
    """Means over prompts at one β: see `rejection_sampling.Selection` for the words."""

    beta: float
    acceptance: float  # expected, over all trials
    theorem1: float
    rounds: float
    ess: float
    mean_reward: float  # of what is kept
    distinct_from_top: float  # share of the kept that top-k would not have kept

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


def figures_by_beta(
    rewards: Sequence[ArrayLike], *, num_samples: int, betas: Sequence[float] = BETAS, seed: int = 0
) -> list[BetaFigures]:
    """Return what statistical rejection sampling (Algorithm 1) does at each β with the rewards of some prompts.

    `rewards` holds one vector a prompt. Raises ValueError without prompts, UserError for a reward that is not finite.
    """
    if not len(rewards):
        message = "the choice of β needs the rewards of at least one prompt, got none"
        raise ValueError(message)
    vectors = [np.asarray(vector, dtype=np.float64) for vector in rewards]
    top = _kept(vectors, num_samples, 0.0, seed)
    return [_figures(vectors, num_samples, beta, seed, top) for beta in betas]


def _kept(rewards: Sequence[Vector], num_samples: int, beta: float, seed: int) -> list[Any]:
    return sample_many(rewards, num_samples=num_samples, beta=beta, seeds=range(seed, seed + len(rewards)))


def _figures(rewards: Sequence[Vector], num_samples: int, beta: float, seed: int, top: Sequence[Any]) -> BetaFigures:
    found = _kept(rewards, num_samples, beta, seed)
    trials = sum(item.trials for item in found)
    kept = [float(vector[i]) for vector, item in zip(rewards, found, strict=True) for i in item.indices]
    others = sum(len(set(item.indices) - set(best.indices)) for item, best in zip(found, top, strict=True))
    return BetaFigures(
        beta=beta,
        acceptance=sum((item.expected or 0.0) * item.trials for item in found) / trials,
        theorem1=_mean([item.theorem1 for item in found]),
        rounds=_mean([item.num_rounds for item in found]),
        ess=_mean([item.ess for item in found]),
        mean_reward=_mean(kept),
        distinct_from_top=others / len(kept),
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
