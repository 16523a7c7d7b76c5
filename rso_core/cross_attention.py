"""Cross-attention of many rows that share an encoded prompt: its keys and values are kept once, not once a row.

For 64 responses to a prompt of 512 tokens a T5-large would keep, and read for every token, six gigabytes of copies.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rso_core.attention import BRANCH_LAYER
from rso_core.branch_attention import read_prompts


class CrossLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values of the encoded prompts, [prompts, heads, tokens, width], and which prompt each row reads.

    Rows stay sorted by prompt: they are repeated once, and then only fewer are kept.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self._mask = mask.bool()  # [prompts, tokens]: which tokens are not padding
        self._counts: list[tuple[int, int]] | None = None  # (prompt, rows), None while each prompt is one row
        self._rows: Tensor | None = None
        self._prompts: dict[int, tuple[Tensor, Tensor]] = {}
        self.reached = False  # whether the model's attention came here

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep the prompts; T5 takes them from here ever after."""
        super().update(key_states, value_states, *args, **kwargs)
        setattr(self.keys, BRANCH_LAYER, self)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Let the rows be these ones; the first time, rows are the prompts themselves."""
        if not self.reached:
            super().batch_select_indices(indices)
            return
        self._rows = indices if self._rows is None else self._rows[indices]
        found, counts = torch.unique_consecutive(self._rows, return_counts=True)
        self._counts = list(zip(found.tolist(), counts.tolist(), strict=True))
        self._prompts = {prompt: self._prompts.get(prompt) or self._unpadded(prompt) for prompt, _ in self._counts}

    def _unpadded(self, prompt: int) -> tuple[Tensor, Tensor]:
        real = self._mask[prompt]
        return self.keys[prompt][:, real], self.values[prompt][:, real]

    def attention(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> Tensor:
        """Return the attention's output [rows, 1, heads, width]."""
        if self._counts is None:
            self.reached = True
            output: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
            return output
        # The position bias of cross-attention is zero, and the mask hides padding, which is not kept.
        prompts = [(rows, *self._prompts[prompt]) for prompt, rows in self._counts]
        scaling = options.get("scaling")
        read, _ = read_prompts(query, prompts, query.shape[-1] ** -0.5 if scaling is None else scaling)
        return read.reshape(len(query), 1, query.shape[1], -1)


def cross_cache(config: Any, mask: Tensor) -> DynamicCache:
    """Return an empty cache of encoded prompts with this mask [prompts, tokens]."""
    cache = DynamicCache(config=config)
    cache.layers = [CrossLayer(mask) for _ in cache.layers]
    return cache
