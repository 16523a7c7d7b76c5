"""A key-value cache with room to grow, and how many rows of one the free memory holds.

Appending a token does not copy the tokens before it.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rso_core import memory

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

ROOM = 64  # tokens that are made room for at a time
SHARE = 0.5  # of the free memory that the rows decoded at once may take
_WIDTHS_OF_A_LAYER = 16  # queries, keys, values, and a feed-forward part of about four times the model's width


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, [batch, heads, tokens, width]: views of the filled part of larger tensors."""

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the new tokens and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self.buffers: dict[str, Tensor] = {}
        self.keys = self._append("keys", self.keys, key_states)
        self.values = self._append("values", self.values, value_states)
        return self.keys, self.values

    def _append(self, name: str, old: Tensor, new: Tensor) -> Tensor:
        start, end = old.shape[2], old.shape[2] + new.shape[2]
        buffer = self.buffers.get(name)
        # Selecting rows replaces the view by a copy: then the buffer is no longer what it was a view of.
        if buffer is None or buffer.data_ptr() != old.data_ptr() or buffer.shape[2] < end:
            batch, heads, _, width = new.shape
            buffer = self.buffers[name] = torch.empty(
                (batch, heads, end + ROOM, width), dtype=new.dtype, device=new.device
            )
            buffer[:, :, :start] = old
        buffer[:, :, start:end] = new
        return buffer[:, :, :end]


def roomy_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a model; layers with a cache of their own kind (sliding windows) keep it."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def rows_that_fit(lm: "LanguageModel", tokens: float, *, most: int) -> int:
    """Return how many rows of so many tokens to decode at once: `most` or the first of its halves that free memory holds.

    Halves, not the most that fits: batch shapes change rounding, and so machines with memory enough draw the same. A row is
    its keys and values, what a layer makes of its tokens while they are read, and its logits in float32 with what is
    computed from them. The other half of the memory is for prompts that are read and for reordered weights.
    """
    config = lm.plain.config.get_text_config()
    read = _WIDTHS_OF_A_LAYER * config.hidden_size * lm.dtype.itemsize
    a_row = tokens * (kept_bytes(lm) + read) + 2 * 4 * config.vocab_size
    free, rows = SHARE * memory.free_bytes(lm.device), most
    while rows > 1 and rows * a_row > free:
        rows = -(-rows // 2)
    return rows


def kept_bytes(lm: "LanguageModel") -> int:
    """Return the bytes of one token's keys and values in all layers (of a decoder's own tokens, where there is an encoder).

    0 for a model without attention, whose state does not grow.
    """
    config = lm.plain.config.get_text_config()
    queries = getattr(config, "num_attention_heads", None) or 0
    layers = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    heads = getattr(config, "num_key_value_heads", None) or queries
    width = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    width = width or config.hidden_size // max(1, queries)
    return int(2 * layers * heads * width * lm.dtype.itemsize)


def tokens_of_a_row(new: int, prompt: int, rows_of_a_prompt: int) -> float:
    """Return the tokens that a row keeps: its own, for which room is made in pieces, and its share of a prompt kept once."""
    return -(-new // ROOM) * ROOM + prompt / rows_of_a_prompt


def even_rows(total: int, at_once: int) -> int:
    """Return how many of `total` rows to decode at once, about `at_once`, so that few are not left to the end.

    An eighth more is taken for that: 64 candidates and one baseline take as long as 64, one row by itself as long as 20.
    """
    passes = -(-total // (9 * at_once // 8))
    return -(-total // passes)
