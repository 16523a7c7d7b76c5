"""Causal attention of a packed forest of segments (`packed_layout`): no padding, shared beginnings read in place.

A token attends to its own segment and to those above it. Each part is one call of PyTorch's fused kernel, and the
parts of a token are joined by their log-sum-exp, forward and backward: softmax over the whole path, exactly.
"""

from typing import Any

import torch
from torch import Tensor

from rso_core.packed_layout import Layout, Rows

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the only one that tells its log-sum-exp
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001 - its derivative


def packed_attention(query: Tensor, key: Tensor, value: Tensor, *, layout: Layout, scaling: float | None) -> Tensor:
    """Return softmax(q kᵀ · scaling) v of every token over the tokens it sees, [1, N, heads, width].

    Shapes: query [1, heads, N, width], key and value [1, shared heads, N, width].
    """
    layout.reads += 1
    if query.device.type == "cpu":
        output: Tensor = _PackedAttention.apply(query, key, value, layout, scaling)  # type: ignore[no-untyped-call]
        return output
    return _flex_attention(query, key, value, layout, scaling)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None) -> Tensor:
        _, heads, tokens, width = query.shape
        output = query.new_empty(1, tokens, heads, width).transpose(1, 2)
        log_sum = query.new_empty(1, tokens, heads, dtype=torch.float32).transpose(1, 2)
        inputs = (query, key, value)
        for span in layout.alone:
            found = _forward(*(part[:, :, span] for part in inputs), 0.0, True, scale=scaling)
            output[:, :, span], log_sum[:, :, span] = found
        for rows in layout.together:
            found = _forward(*(gather(part, rows) for part in inputs), 0.0, True, scale=scaling)
            _scatter(output, found[0], rows)
            _scatter(log_sum, found[1], rows)
        for below, above in layout.shared:
            found = _forward(query[:, :, below], key[:, :, above], value[:, :, above], 0.0, False, scale=scaling)
            _join(output[:, :, below], log_sum[:, :, below], *found)
        ctx.save_for_backward(*inputs, output, log_sum)
        ctx.layout, ctx.scaling = layout, scaling
        return output.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate each part with the output and log-sum-exp of the whole: its share of exact gradients.

        In float32 also for bfloat16 inputs: the kernel's bfloat16 derivative takes twice the time on a CPU.
        """
        *saved, log_sum = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scaling
        parts = (*(part.float() for part in (gradients[0].transpose(1, 2), *saved)), log_sum)
        totals = tuple(torch.zeros_like(part) for part in parts[1:4])
        for span in layout.alone:
            found = _backward(*(part[:, :, span] for part in parts), 0.0, True, scale=scale)
            for total, part in zip(totals, found, strict=True):
                total[:, :, span] = part
        for rows in layout.together:
            gradient, *others = (gather(part, rows) for part in parts)
            gradient = gradient.masked_fill(rows.padding[:, None, :, None], 0)
            found = _backward(gradient, *others, 0.0, True, scale=scale)
            for total, part in zip(totals, found, strict=True):
                _scatter(total, part, rows)
        for below, above in layout.shared:
            places = (below, below, above, above, below, below)
            sliced = (part[:, :, place] for part, place in zip(parts, places, strict=True))
            found = _backward(*sliced, 0.0, False, scale=scale)
            for total, part, place in zip(totals, found, places[1:4], strict=True):
                total[:, :, place] += part
        return *(total.to(part.dtype) for total, part in zip(totals, saved[:3], strict=True)), None, None


def gather(part: Tensor, rows: Rows) -> Tensor:
    """Return [rows, heads, longest, …] of a packed [1, heads, N, …]."""
    by_token = part[0].transpose(0, 1)
    chosen = by_token.index_select(0, rows.tokens.flatten())
    return chosen.reshape(*rows.tokens.shape, *by_token.shape[1:]).transpose(1, 2)


def _scatter(packed: Tensor, part: Tensor, rows: Rows) -> None:
    """Write the real places of [rows, heads, longest, …] into a packed [1, heads, N, …]."""
    by_token = part.transpose(1, 2).flatten(0, 1).index_select(0, rows.real)
    packed[0].transpose(0, 1).index_copy_(0, rows.targets, by_token)


def _join(output: Tensor, log_sum: Tensor, found: Tensor, found_log_sum: Tensor) -> None:
    """Add, in place, what some tokens see in a segment above to what they saw so far."""
    share = torch.sigmoid(found_log_sum - log_sum)[..., None]  # of all the weight, the part that lies above
    output.copy_(torch.lerp(output.float(), found.float(), share))
    log_sum.copy_(torch.logaddexp(log_sum, found_log_sum))


def _flex_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None) -> Tensor:
    """Return the same by FlexAttention's block masks. For CUDA; not tested on one so far."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    seen_until = layout.seen_until

    def sees(_batch: Tensor, _head: Tensor, index: Tensor, other: Tensor) -> Tensor:
        return (other <= index) & (index < seen_until[other])

    if layout.blocks is None:
        layout.blocks = create_block_mask(sees, None, None, layout.tokens, layout.tokens, device=str(query.device))
    attend = torch.compile(flex_attention)
    output: Tensor = attend(query, key, value, block_mask=layout.blocks, scale=scaling, enable_gqa=True)
    return output.transpose(1, 2)
