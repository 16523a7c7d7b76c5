"""What the slope γ of the loss means for rewards that are known already: to choose it before anything is fitted.

The target policy π_r wants two responses to be (r_w − r_l)/β nats further apart in log-probability than π_sft has them
(eq. 4, 5). The hinge losses stop pulling a pair apart at 1/γ nats, the sigmoid loss never stops, but takes the pair for
decided with probability σ(γ·nats).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rso_core.rejection_sampling import sample_many
from rso_core.win_rate import Vector

GAMMAS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class GammaFigures:
    """Means over the pairs that rejection sampling at β would leave, were π_θ the target policy π_r."""

    gamma: float
    margin: float  # nats at which a hinge loss stops: 1/γ
    beyond: float  # share of pairs that π_r wants further apart than that
    decided: float  # σ(γ·nats): what sigmoid_norm takes the preferred one's chance to be
    labelled: float  # σ(r_w − r_l): what the rewards say it is; equal to `decided` at γ = β

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


def figures_by_gamma(
    rewards: Sequence[ArrayLike], *, num_samples: int, beta: float, gammas: Sequence[float] = GAMMAS, seed: int = 0
) -> list[GammaFigures]:
    """Return what each γ means for the pairs of the candidates kept at β; first-round pairs of a random order.

    `rewards` holds one vector a prompt. Raises ValueError without pairs, or at a β of 0 or infinity, where π_r wants
    infinitely much or nothing; UserError for a reward that is not finite.
    """
    if not 0 < beta < np.inf:
        message = (
            f"the choice of γ needs a β above 0 and finite, got {beta}: the target policy is apart by (r_w − r_l)/β"
        )
        raise ValueError(message)
    differences = _differences(rewards, num_samples, beta, seed)
    labelled = float(_sigmoid(differences).mean())
    return [_figures(differences / beta, gamma, labelled) for gamma in gammas]


def _differences(rewards: Sequence[ArrayLike], num_samples: int, beta: float, seed: int) -> Vector:
    """Return r_w − r_l ≥ 0 of every pair."""
    vectors = [np.asarray(vector, dtype=np.float64) for vector in rewards]
    found = sample_many(vectors, num_samples=num_samples, beta=beta, seeds=range(seed, seed + len(vectors)))
    # Candidates are accepted in a random order, but round by round; pairs are of an order of their own.
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(vector[list(item.indices)]) for vector, item in zip(vectors, found, strict=True)]
    pairs = [np.abs(one[0 : len(one) - 1 : 2] - one[1::2]) for one in kept]
    differences: Vector = np.concatenate(pairs) if pairs else np.empty(0)
    if not len(differences):
        message = "the choice of γ needs the rewards of at least two candidates of a prompt, got none"
        raise ValueError(message)
    return differences


def _figures(nats: Vector, gamma: float, labelled: float) -> GammaFigures:
    return GammaFigures(
        gamma=gamma,
        margin=1 / gamma,
        beyond=float((nats > 1 / gamma).mean()),
        decided=float(_sigmoid(gamma * nats).mean()),
        labelled=labelled,
    )


def _sigmoid(values: Vector) -> Vector:
    found: Vector = 1 / (1 + np.exp(-values))
    return found
