"""Exact attention that is also fast for one new token at a time on a CPU.

PyTorch's fused CPU kernel is made for long queries: with one query it took over half of the time of sampling.
There plain matrix products do the same. A packed forward pass brings its own (`packing_mask`); everywhere else
this is transformers' "sdpa". Registered as `ATTENTION` when imported.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "rso_sdpa"
Attend = Callable[..., Tensor]  # (query, key, value, *, scaling[, position_bias]) → [batch, queries, heads, width]
BRANCH_LAYER = "branch_layer"  # the attribute of keys whose cache layer computes the attention (`branch_attention`)
# Arguments that models pass on and that change nothing of a packed forward pass.
_WITHOUT_EFFECT = frozenset(
    {"dropout", "is_causal", "position_ids", "position_embeddings", "cache_position", "return_dict"}
)


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
    attend: Attend | None = getattr(attention_mask, "attend", None)
    if attend is not None:
        return attend(query, key, value, **_plain_options(options)), None
    if query.shape[2] == 1 and query.device.type == "cpu" and not options.get("dropout"):
        return _one_query(query, key, value, attention_mask, **options), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output, None


def packing_mask(attend: Attend, device: torch.device) -> Tensor:
    """Return what to pass as a model's attention mask so that `attend` computes its attention.

    It masks nothing; its shape fits nothing either, so that an attention which does not know it fails.
    """
    mask = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device)
    mask.attend = attend  # type: ignore[attr-defined]
    return mask


def _plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return scaling and position bias. Raises ValueError when a model asks for more (sliding windows, caps, dropout)."""
    known = {"scaling": options.get("scaling")}
    if options.get("position_bias") is not None:
        known["position_bias"] = options["position_bias"]
    asked = {name for name, value in options.items() if value is not None and value is not False}
    more = asked - known.keys() - _WITHOUT_EFFECT
    if more or options.get("dropout") or options.get("is_causal") is False:
        message = (
            f"a packed forward has plain attention; this model also asks for {', '.join(sorted(more)) or 'dropout'}"
        )
        raise ValueError(message)
    return known


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
