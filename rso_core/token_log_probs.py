"""log softmax at the tokens that were written, straight from hidden states: no float32 table of tokens × vocabulary.

The output embedding makes one number for every token of the vocabulary; a few hundred rows of them are made at a
time and reduced to one number each, a few rows in float32 at once so that they stay in the processor's cache. The
backward pass makes them again, unless they were in half precision and few: then they are kept as they came out of
the product and become their own slopes. The slopes of the weight go straight to where `gradient_sinks` says.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from rso_core.gradient_sinks import Sink, add_product, sink_of

CHUNK = 256  # rows whose logits exist at once
KEPT_BYTES = 1 << 27  # of logits in half precision that are kept for the backward pass
_IN_CACHE = 1 << 19  # logits in float32 at once: 2 MB


def token_log_probs(hidden: Tensor, head: torch.nn.Module, targets: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Return log softmax(head(hidden))[targets], one float32 a token.

    Shapes: hidden [tokens, width], targets [tokens]; returns [tokens]. Gradients flow to the hidden states and to
    the head where it is trained; a head that is more than a linear layer (an adapter on it) is taken as it is.
    """
    if type(head) is torch.nn.Linear:
        kept = _room_for_logits(hidden, head.weight)
        found: Tensor = _TokenLogProbs.apply(
            hidden, head.weight, head.bias, targets, (chunk, kept, sink_of(head.weight))
        )  # type: ignore[no-untyped-call]
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
        how: tuple[int, Tensor | None, Sink | None],  # rows at once, where all logits are kept, where slopes go
    ) -> Tensor:
        chunk, kept, ctx.sink = how
        found = hidden.new_empty(len(targets), dtype=torch.float32)
        log_sum = torch.empty_like(found)
        logits_of = _Logits(hidden, weight, bias, chunk, kept)
        for part in logits_of.parts:
            logits = logits_of(part)
            for rows in _in_cache(logits):
                at = slice(part.start + rows.start, part.start + rows.stop)
                floats = logits[rows].float()
                found[at] = floats.gather(1, targets[at, None])[:, 0]
                most = floats.amax(dim=1)
                log_sum[at] = floats.sub_(most[:, None]).exp_().sum(dim=1).log_() + most
        ctx.save_for_backward(hidden, weight, bias, targets, log_sum)
        ctx.chunk, ctx.kept = chunk, kept
        return found.sub_(log_sum)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return d/d logits = gradient · (1[target] − softmax), passed on through the linear layer, part by part."""
        hidden, weight, bias, targets, log_sum = ctx.saved_tensors
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1] and ctx.sink is None, ctx.needs_input_grad[2])
        of_hidden, of_weight, of_bias = (
            torch.zeros_like(part) if needed else None
            for part, needed in zip((hidden, weight, bias), wanted, strict=True)
        )
        sink = ctx.sink if ctx.needs_input_grad[1] else None
        logits_of = _Logits(hidden, weight, bias, ctx.chunk, ctx.kept, known=ctx.kept is not None)
        with ExitStack() as turn:
            for number, part in enumerate(logits_of.parts):
                slopes = logits_of(part)
                _to_slopes(slopes, targets[part], log_sum[part], gradients[0][part])
                if of_hidden is not None:
                    torch.mm(slopes, weight, out=of_hidden[part])
                if number == 0:  # what does not touch the sum need not wait for its turn
                    total = of_weight if sink is None else turn.enter_context(sink.adding())
                if total is not None:
                    add_product(total, slopes, hidden[part])
                if of_bias is not None:
                    of_bias += slopes.sum(dim=0, dtype=torch.float32).to(bias.dtype)
        ctx.kept = None
        return of_hidden, of_weight, of_bias, None, None


def _to_slopes(logits: Tensor, targets: Tensor, log_sum: Tensor, gradient: Tensor) -> None:
    """Write d/d logits in the place of logits [rows, vocabulary], computed in float32."""
    for rows in _in_cache(logits):
        share = gradient[rows, None]
        floats = logits[rows].float().sub_(log_sum[rows, None]).exp_().mul_(-share)
        logits[rows] = floats.scatter_add_(1, targets[rows, None], share)


def _in_cache(logits: Tensor) -> Iterator[slice]:
    rows = max(1, _IN_CACHE // max(1, logits.shape[1]))
    return (slice(start, min(start + rows, len(logits))) for start in range(0, len(logits), rows))


class _Logits:
    """Logits of some rows at a time: all of them where there is room, else always in the same memory."""

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
        self._hidden, self._weight, self._bias, self._known = hidden, weight, bias, known
        rows = len(hidden)
        size = max(1, rows if kept is not None else min(chunk, rows))
        self._room = hidden.new_empty(size, len(weight)) if kept is None else kept
        self.parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

    def __call__(self, part: slice) -> Tensor:
        """Return the logits of some rows; they may be changed, and the next call may overwrite them."""
        logits = self._room[: part.stop - part.start]
        if not self._known:
            torch.mm(self._hidden[part], self._weight.T, out=logits)
            if self._bias is not None:
                logits += self._bias
        return logits
