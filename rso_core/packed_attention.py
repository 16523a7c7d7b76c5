"""Causal attention of a packed forest of segments (`packed_layout`): no padding, shared beginnings read in place.

A token attends to its own segment and to those above it. Each part is one call of PyTorch's fused kernel, and the
parts of a token are joined by their log-sum-exp, forward and backward: softmax over the whole path, exactly.
"""

from typing import Any

import torch
from torch import Tensor

from rso_core.packed_layout import Layout, Rows

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the only one that tells its log-sum-exp
_SCORES = 1 << 20  # attention scores at once in the backward pass: 4 MB in float32
_QUERIES = 64  # at once where keys behind a query do not count: fewer products with what is masked


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
        """Differentiate each part with the output and log-sum-exp of the whole: its share of exact gradients."""
        query, key, value, output, log_sum = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scaling or query.shape[-1] ** -0.5
        gradient = gradients[0].transpose(1, 2)
        drop = (gradient.float() * output.float()).sum(
            dim=-1
        )  # what softmax takes off the slope of each of its numbers
        by_query, by_key = (query, gradient, drop, log_sum), (key, value)
        totals = tuple(torch.zeros_like(part, dtype=torch.float32) for part in (query, key, value))
        for span in layout.alone:
            found = _slopes(_at(by_query, span), _at(by_key, span), scale, causal=True)
            for total, part in zip(totals, found, strict=True):
                total[:, :, span] = part
        for rows in layout.together:
            q, g, d, sums = (gather(part, rows) for part in by_query)
            padding = rows.padding[:, None, :]
            real = (q, g.masked_fill(padding[..., None], 0), d.masked_fill(padding, 0), sums)
            found = _slopes(real, tuple(gather(part, rows) for part in by_key), scale, causal=True)
            for total, part in zip(totals, found, strict=True):
                _scatter(total, part, rows)
        for below, above in layout.shared:
            found = _slopes(_at(by_query, below), _at(by_key, above), scale, causal=False)
            for total, part, place in zip(totals, found, (below, above, above), strict=True):
                total[:, :, place] += part
        return *(total.to(query.dtype) for total in totals), None, None


def _at(parts: tuple[Tensor, ...], place: slice) -> tuple[Tensor, ...]:
    return tuple(part[:, :, place] for part in parts)


def _slopes(
    by_query: tuple[Tensor, ...], by_key: tuple[Tensor, ...], scale: float, *, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return d/d query, key and value (float32) of softmax(q kᵀ · scale) v, by whole matrix products.

    Shapes: by_query is query and gradient of the output, [rows, heads, queries, width], and Σ output · gradient and
    log-sum-exp, [rows, heads, queries]; by_key is key and value, [rows, shared heads, keys, width]. Products have the
    inputs' precision, softmax is float32. Query heads that share keys go through one product, some queries at a time, so
    that their scores stay in the cache: the fused kernel's derivative takes more time, and errs as much in bfloat16.
    """
    rows, heads, queries, width = by_query[0].shape
    shared, keys = by_key[0].shape[1:3]
    key, value = (part.reshape(rows * shared, keys, width) for part in by_key)
    of_query = torch.empty(rows, heads, queries, width, device=key.device)
    of_key, of_value = torch.zeros(2, rows * shared, keys, width, device=key.device)
    step = max(1, min(_QUERIES if causal else queries, _SCORES // (rows * heads * keys)))
    for start in range(0, queries, step):
        stop = min(start + step, queries)
        seen = slice(0, stop if causal else keys)
        query, gradient, drop, log_sum = (
            part[:, :, start:stop].reshape(rows * shared, -1, *part.shape[3:]) for part in by_query
        )
        query = query * scale
        weights = torch.bmm(query, key[:, seen].transpose(1, 2)).float().sub_(log_sum[:, :, None]).exp_()
        if causal:
            weights.view(rows * heads, stop - start, stop).tril_(start)
        of_value[:, seen] += torch.bmm(weights.to(value.dtype).transpose(1, 2), gradient)
        slope = torch.bmm(gradient, value[:, seen].transpose(1, 2)) - drop[:, :, None]
        slope = slope.mul_(weights).to(key.dtype)
        of_query[:, :, start:stop] = torch.bmm(slope, key[:, seen]).view(rows, heads, stop - start, width)
        of_key[:, seen] += torch.bmm(slope.transpose(1, 2), query)
    shape = (rows, shared, keys, width)
    return of_query.mul_(scale), of_key.view(shape), of_value.view(shape)


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
