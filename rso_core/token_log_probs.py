"""log softmax at the tokens that were written, straight from hidden states: no table of tokens × vocabulary.

The output embedding makes one number for every token of the vocabulary; a few hundred rows of them are made at a
time, reduced to one number each and dropped. The backward pass makes them again.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 256  # rows whose logits exist at once


def token_log_probs(hidden: Tensor, head: torch.nn.Module, targets: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Return log softmax(head(hidden))[targets], one float32 a token.

    Shapes: hidden [tokens, width], targets [tokens]; returns [tokens]. Gradients flow to the hidden states and to
    the head where it is trained; a head that is more than a linear layer (an adapter on it) is taken as it is.
    """
    if type(head) is torch.nn.Linear:
        found: Tensor = _TokenLogProbs.apply(hidden, head.weight, head.bias, targets, chunk)  # type: ignore[no-untyped-call]
        return found
    parts = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    return torch.cat([torch.log_softmax(head(h).float(), dim=-1).gather(1, t[:, None])[:, 0] for h, t in parts])


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        found = hidden.new_empty(len(targets), dtype=torch.float32)
        log_sum = torch.empty_like(found)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
            log_sum[part] = torch.logsumexp(logits, dim=-1)
            found[part] = logits.gather(1, targets[part, None])[:, 0] - log_sum[part]
        ctx.save_for_backward(hidden, weight, bias, targets, log_sum)
        ctx.chunk = chunk
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return d/d logits = gradient · (1[target] − softmax), passed on through the linear layer, chunk by chunk."""
        hidden, weight, bias, targets, log_sum = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for start in range(0, len(targets), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
            slope = logits.sub_(log_sum[part, None]).exp_().mul_(-gradients[0][part, None])
            slope.scatter_add_(1, targets[part, None], gradients[0][part, None])
            of_logits = slope.to(hidden.dtype)
            if of_hidden is not None:
                torch.mm(of_logits, weight, out=of_hidden[part])
            if of_weight is not None:
                of_weight.addmm_(of_logits.T, hidden[part])
            if of_bias is not None:
                of_bias += slope.sum(dim=0).to(bias.dtype)
        return of_hidden, of_weight, of_bias, None, None
