"""Where the gradients of large weights are added up: straight into float32, a few rows at a time.

Autograd makes the gradient of an embedding as large as the embedding, once for every place that uses it, adds these up
and hands them on; for a vocabulary of 50,000 that moves half a gigabyte in every micro-batch. A weight that has a
`Sink` (`trained_weights` gives it one) is spared that: whoever computes a part of its gradient adds it there.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 18  # numbers added at once: a megabyte in float32
_PRODUCT = 1 << 21  # numbers of a product that are made before they are added


@dataclass(frozen=True)
class Sink:
    """`with adding() as total` gives the float32 sum, of the weight's shape, to add a part of its gradient to.

    Where several threads add to one sum, the block is entered when it is this part's turn (`lanes.Turns`).
    """

    adding: Callable[[], AbstractContextManager[Tensor]]


def give_sink(weight: Any, sink: Sink | None) -> None:
    """Let a weight have a sink, or none."""
    weight.gradient_sink = sink


def sink_of(weight: Tensor) -> Sink | None:
    """Return the sink of a weight, None where autograd is to collect its gradient."""
    return getattr(weight, "gradient_sink", None)


def add_in_blocks(total: Tensor, part: Tensor) -> None:
    """Add `part` of any precision to `total`; both are contiguous. Small blocks spare a float32 copy in memory."""
    into, what = total.view(-1), part.reshape(-1)
    for start in range(0, into.numel(), BLOCK):
        into[start : start + BLOCK].add_(what[start : start + BLOCK])


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add leftᵀ right to `total` [columns of left, columns of right], rounded to the precision of the factors."""
    if total.dtype == left.dtype == torch.float32:
        total.addmm_(left.T, right)
        return
    rows = max(1, _PRODUCT // right.shape[1])
    for start in range(0, len(total), rows):
        add_in_blocks(total[start : start + rows], left[:, start : start + rows].T @ right)


def embedded(embedding: torch.nn.Module, ids: Tensor) -> Tensor:
    """Return the rows of an embedding. Where its weight has a sink, the gradient of a row goes to its place there."""
    sink = sink_of(embedding.weight) if type(embedding) is torch.nn.Embedding else None
    if sink is None or not _plain(embedding) or not torch.is_grad_enabled():
        found: Tensor = embedding(ids)
        return found
    rows: Tensor = _Embedded.apply(embedding.weight, ids, embedding.padding_idx, sink)  # type: ignore[no-untyped-call]
    return rows


def _plain(embedding: Any) -> bool:
    return embedding.max_norm is None and not embedding.scale_grad_by_freq


class _Embedded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None, sink: Sink) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.padding, ctx.sink = padding, sink
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        (ids,) = ctx.saved_tensors
        rows = ids.flatten()
        gradient = gradients[0].reshape(len(rows), -1).float()
        if ctx.padding is not None:
            gradient = gradient.masked_fill((rows == ctx.padding)[:, None], 0)
        with ctx.sink.adding() as total:
            total.index_add_(0, rows, gradient)
        return None, None, None, None
