"""A key-value cache with room to grow: appending a token does not copy the tokens before it."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens that are made room for at a time


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
