"""Exact attention that is also fast for one new token at a time on a CPU.

PyTorch's fused CPU kernel is made for long queries: with one query it took over half of the time of sampling.
There plain matrix products do the same; everywhere else this is transformers' "sdpa". Registered as
`ATTENTION` when imported.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "rso_sdpa"
BRANCH_LAYER = "branch_layer"  # the attribute of keys whose cache layer computes the attention (`branch_attention`)


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return the attention's output [batch, queries, heads, width] and no weights, as transformers asks for it."""
    layer = getattr(key, BRANCH_LAYER, None)
    if layer is not None:
        return layer.attention(module, query, key, value, attention_mask, **options), None
    if query.shape[2] == 1 and query.device.type == "cpu" and not options.get("dropout"):
        return _one_query(query, key, value, attention_mask, **options), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output, None


def _one_query(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Return softmax(q kᵀ · scaling + bias) v for one query; query heads that share keys go through one product.

    Shapes: query [batch, heads, 1, width], key and value [batch, shared heads, tokens, width].
    """
    batch, heads, _one, width = query.shape
    shared = key.shape[1]
    scores = query.reshape(batch, shared, heads // shared, width) @ key.transpose(2, 3)
    scores = scores.float() * (width**-0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + position_bias.reshape(-1, shared, heads // shared, key.shape[2])
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(torch.float32).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    output = torch.softmax(scores, dim=-1).to(value.dtype) @ value
    return output.reshape(batch, 1, heads, value.shape[-1])


AttentionInterface.register(ATTENTION, attention_forward)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
