"""log softmax at the tokens that were written, straight from hidden states: no table of tokens × vocabulary.

The output embedding makes one number for every token of the vocabulary; a few hundred rows of them are made at a
time and reduced to one number each. The backward pass makes them again, unless they were in half precision and few:
then they are kept as they came out of the product, which is a fifth of the time of this layer.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 256  # rows whose logits exist at once
KEPT_BYTES = 1 << 27  # of logits in half precision that are kept for the backward pass


def token_log_probs(hidden: Tensor, head: torch.nn.Module, targets: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Return log softmax(head(hidden))[targets], one float32 a token.

    Shapes: hidden [tokens, width], targets [tokens]; returns [tokens]. Gradients flow to the hidden states and to
    the head where it is trained; a head that is more than a linear layer (an adapter on it) is taken as it is.
    """
    if type(head) is torch.nn.Linear:
        kept = _room_for_logits(hidden, head.weight)
        found: Tensor = _TokenLogProbs.apply(hidden, head.weight, head.bias, targets, chunk, kept)  # type: ignore[no-untyped-call]
        return found
    parts = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    return torch.cat([torch.log_softmax(head(h).float(), dim=-1).gather(1, t[:, None])[:, 0] for h, t in parts])


def _room_for_logits(hidden: Tensor, weight: Tensor) -> Tensor | None:
    """Return where the logits [tokens, vocabulary] are kept for the backward pass, None where they are made again."""
    size = len(hidden) * len(weight) * hidden.element_size()
    if not torch.is_grad_enabled() or hidden.element_size() > 2 or size > KEPT_BYTES:  # noqa: PLR2004 - half precision
        return None
    return hidden.detach().new_empty(len(hidden), len(weight))


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        kept: Tensor | None,
    ) -> Tensor:
        found = hidden.new_empty(len(targets), dtype=torch.float32)
        log_sum = torch.empty_like(found)
        logits_of = _Logits(hidden, weight, bias, chunk, kept)
        for part in _parts(targets, chunk):
            logits = logits_of(part)
            at_target = logits.gather(1, targets[part, None])[:, 0]
            most = logits.amax(dim=1)
            log_sum[part] = logits.sub_(most[:, None]).exp_().sum(dim=1).log_() + most
            found[part] = at_target - log_sum[part]
        ctx.save_for_backward(hidden, weight, bias, targets, log_sum)
        ctx.chunk, ctx.kept = chunk, kept
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return d/d logits = gradient · (1[target] − softmax), passed on through the linear layer, chunk by chunk."""
        hidden, weight, bias, targets, log_sum = ctx.saved_tensors
        wanted = zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        of_hidden, of_weight, of_bias = (torch.zeros_like(part) if needed else None for part, needed in wanted)
        logits_of = _Logits(hidden, weight, bias, ctx.chunk, ctx.kept, known=ctx.kept is not None)
        for part in _parts(targets, ctx.chunk):
            gradient = gradients[0][part, None]
            slope = logits_of(part).sub_(log_sum[part, None]).exp_().mul_(-gradient)
            slope.scatter_add_(1, targets[part, None], gradient)
            of_logits = logits_of.rounded(slope)
            if of_hidden is not None:
                torch.mm(of_logits, weight, out=of_hidden[part])
            if of_weight is not None:
                of_weight.addmm_(of_logits.T, hidden[part])
            if of_bias is not None:
                of_bias += slope.sum(dim=0).to(bias.dtype)
        ctx.kept = None
        return of_hidden, of_weight, of_bias, None, None, None


def _parts(targets: Tensor, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, len(targets))) for start in range(0, len(targets), chunk)]


class _Logits:
    """Logits of a few rows at a time, always in the same memory: fresh memory of this size takes longer than its use."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chunk: int,
        kept: Tensor | None,
        *,
        known: bool = False,
    ) -> None:
        self._hidden, self._weight, self._bias, self._kept, self._known = hidden, weight, bias, kept, known
        self._own = hidden.new_empty(min(chunk, len(hidden)), len(weight))
        self._float = self._own if hidden.dtype == torch.float32 else torch.empty_like(self._own, dtype=torch.float32)

    def __call__(self, part: slice) -> Tensor:
        """Return the logits of some rows in float32; they may be changed, and are gone at the next call."""
        rows = part.stop - part.start
        own = self._own[:rows] if self._kept is None else self._kept[part]
        if not self._known:
            torch.mm(self._hidden[part], self._weight.T, out=own)
            if self._bias is not None:
                own += self._bias
        return own if own.dtype == torch.float32 else self._float[:rows].copy_(own)

    def rounded(self, values: Tensor) -> Tensor:
        """Return values of the logits' shape in the precision of the weights."""
        return values if values.dtype == self._own.dtype else self._own[: len(values)].copy_(values)
