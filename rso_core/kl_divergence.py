"""KL(π_θ ‖ π_sft) of responses that π_θ itself wrote: how far a policy has gone from where it began.

KL(π_θ ‖ π_sft) = E over y of π_θ of Σ_t KL(π_θ(·|x, y_<t) ‖ π_sft(·|x, y_<t)), in nats a response. The sum over the
vocabulary is exact at every token; only responses are drawn, at temperature 1 from the whole vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rso_core.grouped_forward import response_logits
from rso_core.win_rate import Interval, cluster_means, quantile_limits

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

Row = tuple[Sequence[int], Sequence[int]]  # a prompt and a response with end-of-sequence, as token ids


def response_kl(
    policy: "LanguageModel", reference: "LanguageModel", rows: Sequence[Row], *, batch_size: int
) -> list[float]:
    """Return Σ_t KL(π_θ ‖ π_sft) along each response, in nats, 0 or above; [rows].

    Both models share a tokenizer. Raises ValueError when their vocabularies differ in size.
    """
    found: list[float] = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        with torch.inference_mode():
            ours, mask = response_logits(policy, part)
            theirs, _ = response_logits(reference, part)
            found += _kl_of_tokens(ours, theirs).where(mask.bool(), 0.0).sum(dim=1).tolist()
    return found


def _kl_of_tokens(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Return the divergence of next-token distributions, float64: logits [rows, T, vocabulary], twice, → [rows, T]."""
    if ours.shape != theirs.shape:
        message = (
            f"policy and reference must have one vocabulary, got logits {tuple(ours.shape)} and {tuple(theirs.shape)}"
        )
        raise ValueError(message)
    log_p, log_q = ours.double().log_softmax(dim=-1), theirs.double().log_softmax(dim=-1)
    # A token that the policy never writes adds nothing: 0 · log 0 = 0.
    terms = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q))
    return terms.sum(dim=-1).clamp(min=0.0)  # below 0 by rounding only


def mean_kl(values: Sequence[float], roots: Sequence[str], *, draws: int, seed: int) -> Interval:
    """Return the mean of responses' divergences with its 95 % interval, drawn over conversation roots.

    Where all conversations have one value (as when nothing was changed) the interval has no width.
    """
    drawn = cluster_means(np.asarray(values, dtype=np.float64), roots, draws=draws, seed=seed)
    low, high = quantile_limits(drawn)
    return Interval(value=float(np.mean(values)), low=low, high=high, n=len(values))
