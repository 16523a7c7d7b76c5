"""Draw tokens from logits with given random numbers, without a float32 copy of the logits.

Of top-k sampling only k logits a row are ever made float32. They are found by the maxima of groups of tokens: the k largest
logits are in the k groups with the largest maxima, so that a row is read once, and sorted never.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rso_core.errors import UserError

_GROUP = 64  # tokens a group
_ROWS = 16  # rows whose whole distribution is computed at once


@dataclass(frozen=True)
class Response:
    """A sampled response; `token_ids` ends with EOS unless `truncated` (the length limit came first)."""

    token_ids: list[int]
    truncated: bool


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; `top_k` 0 samples among all tokens, 1 is greedy."""

    temperature: float
    top_k: int
    max_new_tokens: int


def sample_tokens(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """Draw a token for each random number by inverting the cumulative distribution of softmax(top_k(logits) / temperature).

    Shapes: logits [rows, vocabulary] in any precision, uniforms [rows] in [0, 1), float64; returns [rows]. A single row of
    logits serves all random numbers. Raises UserError when logits are NaN.
    """
    temperature, top_k = sampling.temperature, sampling.top_k
    if top_k == 1:
        values, choices = logits.max(dim=-1)
        _refuse_nan(values)
        return choices.expand(len(uniforms))
    if 0 < top_k < logits.shape[-1]:
        values, choices = largest(logits, top_k)
        return choices.expand(len(uniforms), -1).gather(1, _draw(values, uniforms, temperature)[:, None]).squeeze(1)
    if len(logits) == 1:
        return _draw(logits, uniforms, temperature)
    blocks = zip(torch.split(logits, _ROWS), torch.split(uniforms, _ROWS), strict=True)
    return torch.cat([_draw(some, numbers, temperature) for some, numbers in blocks])


def largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest logits of each row, largest first, and their tokens: both [rows, count], as `topk`."""
    rows, vocabulary = logits.shape
    groups = vocabulary // _GROUP
    if groups < 4 * count:  # too few groups to leave many out
        return logits.topk(count, dim=-1)
    # Group g is the tokens g, g + groups, g + 2·groups, …: its maximum is one of a row of contiguous maxima.
    grouped = logits[:, : groups * _GROUP].view(rows, _GROUP, groups)
    chosen = grouped.amax(dim=1).topk(count, dim=-1, sorted=False).indices
    members = torch.arange(0, groups * _GROUP, groups, device=logits.device)[:, None]
    tokens = (chosen[:, None, :] + members).flatten(1)
    rest = torch.arange(groups * _GROUP, vocabulary, device=logits.device).expand(rows, -1)
    tokens = torch.cat([tokens, rest], dim=1)
    values, found = logits.gather(1, tokens).topk(count, dim=-1)
    return values, tokens.gather(1, found)


def _draw(values: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    """Return which of a row's values is drawn: `values` [rows or 1, choices], `uniforms` [rows]; returns [rows]."""
    cumulative = torch.softmax(values.float() / temperature, dim=-1).double().cumsum(dim=-1)
    _refuse_nan(cumulative[:, -1])
    cumulative = cumulative.expand(len(uniforms), -1).contiguous()
    # The last entry is 1 only up to rounding: scaling by it keeps every draw inside.
    found = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)
    return found.clamp(max=cumulative.shape[-1] - 1).squeeze(1)


def _refuse_nan(values: Tensor) -> None:
    """Raise UserError when a model computes NaN: a token would still be drawn, and mean nothing."""
    if bool(values.isnan().any()):
        message = (
            "the model's next-token logits are NaN: its weights hold NaN or infinity, or overflow its precision. Import the "
            "model again, use model.dtype float32, or train it again with a lower learning rate"
        )
        raise UserError(message)
