"""The losses of policy fitting, eq. 1 and 8-10 of RSO (arXiv:2309.06657), on pairs (y_w, y_l).

γ is the slope of the loss, which DPO calls β; it is not the temperature β of rejection sampling. Log-probabilities
are summed over the response's tokens with end-of-sequence, never averaged. `log_ratio` is
log π_θ(y|x) − log π_sft(y|x). Other libraries' names for these losses are listed in `docs/paper.md`.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rso_core.config import LossName


class Loss(Protocol):
    """A loss of the chosen and the rejected response, one value a pair."""

    def __call__(self, chosen: Tensor, rejected: Tensor, /, *, gamma: float) -> Tensor:
        """Return the loss of each pair: shapes [batch], [batch] → [batch]."""


def sigmoid_norm_loss(chosen_log_ratio: Tensor, rejected_log_ratio: Tensor, *, gamma: float) -> Tensor:
    """Logistic loss on normalised likelihood: eq. 8, DPO's loss.

    −log σ(γ (log-ratio of y_w − log-ratio of y_l)); ln 2 where π_θ = π_sft.
    Shapes: both inputs [batch]; returns [batch], not reduced. Raises ValueError when the shapes differ or γ is
    negative or not finite.
    """
    return -logsigmoid(_slope_times_margin(chosen_log_ratio, rejected_log_ratio, gamma))


def hinge_loss(chosen_log_prob: Tensor, rejected_log_prob: Tensor, *, gamma: float) -> Tensor:
    """Hinge loss on likelihood: eq. 9, SLiC's calibration loss without its regulariser. Needs no reference.

    max(0, 1 − γ (log π_θ(y_w|x) − log π_θ(y_l|x))).
    Shapes: both inputs [batch]; returns [batch], not reduced. Raises ValueError when the shapes differ or γ is
    negative or not finite.
    """
    return torch.relu(1 - _slope_times_margin(chosen_log_prob, rejected_log_prob, gamma))


def hinge_norm_loss(chosen_log_ratio: Tensor, rejected_log_ratio: Tensor, *, gamma: float) -> Tensor:
    """Hinge loss on normalised likelihood: eq. 10, the paper's improvement of SLiC.

    max(0, 1 − γ (log-ratio of y_w − log-ratio of y_l)); 1 where π_θ = π_sft.
    Shapes: both inputs [batch]; returns [batch], not reduced. Raises ValueError when the shapes differ or γ is
    negative or not finite.
    """
    return torch.relu(1 - _slope_times_margin(chosen_log_ratio, rejected_log_ratio, gamma))


def slic_loss(chosen: Tensor, rejected: Tensor, target: Tensor, *, delta: float, regularizer: float) -> Tensor:
    """SLiC-HF's loss, eq. 1: a hinge with margin δ on likelihood, and a pull towards a target y_ref. No reference.

    max(0, δ − log π_θ(y_w|x) + log π_θ(y_l|x)) − λ log π_θ(y_ref|x), λ = `regularizer`.
    With δ = 1/γ and λ = 0 it is `hinge_loss` divided by γ. Shapes: log-probabilities, all [batch]; returns [batch],
    not reduced. Raises ValueError when the shapes differ, or δ or λ is negative or not finite.
    """
    if target.shape != chosen.shape:
        message = f"`target` must have the shape of `chosen`, got {tuple(target.shape)} and {tuple(chosen.shape)}"
        raise ValueError(message)
    for name, value in (("delta", delta), ("regularizer", regularizer)):
        if not math.isfinite(value) or value < 0:
            message = f"`{name}` must be finite and 0 or above, got {value}"
            raise ValueError(message)
    return torch.relu(delta - _slope_times_margin(chosen, rejected, 1.0)) - regularizer * target


def _slope_times_margin(chosen: Tensor, rejected: Tensor, gamma: float) -> Tensor:
    """Return z or z_norm, the argument of every loss; positive where the model agrees with the label."""
    if chosen.shape != rejected.shape:
        # Broadcasting [batch, 1] against [batch] would compare every pair with every other one.
        message = (
            f"`chosen` and `rejected` must have the same shape, got {tuple(chosen.shape)} and {tuple(rejected.shape)}"
        )
        raise ValueError(message)
    if not math.isfinite(gamma) or gamma < 0:
        message = f"`gamma` must be finite and 0 or above, got {gamma}"
        raise ValueError(message)
    return gamma * (chosen - rejected)


LOSSES: Mapping[LossName, Loss] = MappingProxyType(
    {"sigmoid_norm": sigmoid_norm_loss, "hinge": hinge_loss, "hinge_norm": hinge_norm_loss}
)
# These take log-ratios to π_sft; the others take log-probabilities of π_θ alone.
NEEDS_REFERENCE: frozenset[LossName] = frozenset({"sigmoid_norm", "hinge_norm"})
