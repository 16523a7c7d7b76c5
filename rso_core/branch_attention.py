"""Attention of many rows that continue a few prompts: a prompt is kept once, and read by all of its rows in one product.

A row attends to its prompt and to the tokens drawn for it. The prompt's part is one product for all rows of the prompt,
[rows · heads, width] × [width, prompt]. In the softmax over a row's own tokens it is one more entry: its score is the
logarithm of the part's normaliser, its value the part's output. That is the softmax over both, exactly.

Rows begin and end at any time. All rows that go on write their next token into one column of the cache, and a mask says
which columns are whose: positions are in the keys already, so that the order of columns means nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rso_core.attention import BRANCH_LAYER
from rso_core.kv_cache import ROOM

# What changes attention scores or weights in a way that is not written here; None in the models that can be served.
_UNSUITED = ("position_bias", "softcap", "s_aux", "sliding_window", "head_mask")


class Branches:
    """Which prompt each row continues, and which columns of the cache are its own; the layers share one.

    Rows that are not live go on in the batch until another row takes their place: they are given any prompt, and no column
    but the last one written.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.reading: int | None = None  # the prompt that goes through the model now, None when rows do
        self.live = torch.zeros(rows, dtype=torch.bool, device=device)
        self.column = -1
        self.width = 0
        self.hidden: Tensor | None = None  # added to the scores of columns: [rows, 1, 1, width], 0 or -inf
        self._prompt = torch.zeros(rows, dtype=torch.long, device=device)
        self._mine = torch.zeros(rows, ROOM, dtype=torch.bool, device=device)
        self._layout: tuple[list[tuple[int, int]], Tensor | None, Tensor | None] | None = None

    def start(self, rows: Tensor, prompt: int) -> None:
        """Let these rows continue `prompt`."""
        self.live[rows] = True
        self._prompt[rows] = prompt
        self._layout = None

    def end(self, rows: Tensor) -> None:
        """Let these rows be nobody's."""
        self.live[rows] = False
        self._mine[rows] = False
        self._layout = None

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self.live, self._prompt, self._mine = self.live[rows], self._prompt[rows], self._mine[rows]
        self._layout = None

    def advance(self) -> None:
        """Give the next token the first column that holds nothing of a live row."""
        taken = self._mine.any(dim=0)
        if bool(taken.all()):
            self._mine = torch.nn.functional.pad(self._mine, (0, ROOM))
            taken = torch.nn.functional.pad(taken, (0, ROOM))
        self.column = int(taken.long().argmin())
        self.width = max(self.column, int(taken.nonzero().max()) if bool(taken.any()) else 0) + 1
        self._mine[:, self.column] = self.live
        shown = self._mine[:, : self.width].clone()
        shown[:, self.column] = True
        self.hidden = (
            None
            if bool(shown.all())
            else torch.zeros_like(shown, dtype=torch.float32).masked_fill_(~shown, -torch.inf)[:, None, None]
        )

    def layout(self) -> tuple[list[tuple[int, int]], Tensor | None, Tensor | None]:
        """Return (prompt, rows) of rows sorted by prompt, their order and its inverse; None when they are sorted already."""
        if self._layout is None:
            prompt = torch.where(self.live, self._prompt, self._prompt[self.live][:1])
            found, counts = torch.unique(prompt, return_counts=True)
            order = None if bool((prompt.diff() >= 0).all()) else prompt.argsort(stable=True)
            parts = list(zip(found.tolist(), counts.tolist(), strict=True))
            self._layout = parts, order, None if order is None else order.argsort()
        return self._layout


class BranchLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's cache: keys and values of each prompt [heads, prompt, width], and of the rows [rows, heads, columns, width]."""

    def __init__(self, branches: Branches) -> None:
        super().__init__()
        self.branches = branches
        self.prompts: dict[int, tuple[Tensor, Tensor]] = {}
        self.reached = False  # whether the model's attention came here, with nothing that is not computed here
        self._own: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep a prompt, or append a token to each row; returns what `attention` below is then called with."""
        new = (key_states, value_states)
        if self.branches.reading is not None:
            self.prompts[self.branches.reading] = (key_states[0].contiguous(), value_states[0].contiguous())
        else:
            self._make_room(new)
            column, width = self.branches.column, self.branches.width
            for buffer, states in zip(self._own, new, strict=True):
                buffer[:, :, column] = states[:, :, 0]
            new = (self._own[0][:, :, :width], self._own[1][:, :, :width])
        setattr(new[0], BRANCH_LAYER, self)
        return new

    def _make_room(self, new: Sequence[Tensor]) -> None:
        have = self._own[0].shape[2] if self._own else 0
        if self.branches.width > have:
            for i, states in enumerate(new):
                rows, heads, _, width = states.shape
                # Zeros: a column that a row has not written is multiplied by its weight 0, and 0 · NaN is NaN.
                buffer = states.new_zeros(rows, heads, have + ROOM, width)
                if have:
                    buffer[:, :, :have] = self._own[i]
                self._own[i : i + 1] = [buffer]

    def get_seq_length(self) -> int:
        """Return the columns that precede the next token, as masks are sized by."""
        return 0 if self.branches.reading is not None else self.branches.width - 1

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self._own = [buffer[rows, :, : self.branches.width] for buffer in self._own]

    def attention(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> Tensor:
        """Return the attention's output [batch, queries, heads, width]."""
        if self.branches.reading is not None:
            plain = attention_mask is None and all(options.get(name) is None for name in _UNSUITED)
            self.reached = plain and query.shape[-1] == key.shape[-1]
            output: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
            return output
        parts, order, inverse = self.branches.layout()
        prompts = [(rows, *self.prompts[prompt]) for prompt, rows in parts]
        scaling = options.get("scaling")
        return branch_attention(
            query,
            key,
            value,
            prompts,
            order=order,
            inverse=inverse,
            hidden=self.branches.hidden,
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        )


def branch_cache(config: Any, branches: Branches) -> DynamicCache | None:
    """Return an empty cache for a model, None when one of its layers keeps something else than keys and values of all tokens."""
    cache = DynamicCache(config=config)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [BranchLayer(branches) for _ in cache.layers]
    return cache


def branch_attention(  # noqa: PLR0913 - the parts of one formula
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompts: Sequence[tuple[int, Tensor, Tensor]],
    *,
    order: Tensor | None,
    inverse: Tensor | None,
    hidden: Tensor | None,
    scaling: float,
) -> Tensor:
    """Return softmax(q [k_prompt; k_own]ᵀ · scaling + hidden) [v_prompt; v_own] for one query a row: [rows, 1, heads, width].

    Shapes: query [rows, heads, 1, width], key and value [rows, shared heads, columns, width]; `prompts` are (rows, keys, values
    [shared heads, prompt, width]) of the rows in `order`; hidden [rows, 1, 1, columns].
    """
    rows, heads, _one, width = query.shape
    query = query.reshape(rows, key.shape[1], -1, width)
    read, normaliser = read_prompts(query if order is None else query[order], prompts, scaling)
    if inverse is not None:
        read, normaliser = read[inverse], normaliser[inverse]
    scores = (query @ key.transpose(2, 3)).float() * scaling
    if hidden is not None:
        scores = scores + hidden
    weights = torch.softmax(torch.cat([scores, normaliser], dim=-1), dim=-1).to(value.dtype)
    output = torch.addcmul(weights[..., :-1] @ value, weights[..., -1:], read)
    return output.reshape(rows, 1, heads, value.shape[-1])


def read_prompts(query: Tensor, prompts: Sequence[tuple[int, Tensor, Tensor]], scaling: float) -> tuple[Tensor, Tensor]:
    """Return each query's output over its prompt [rows, shared heads, group, width] and the log normaliser [..., 1], float32.

    Shapes: query [rows, shared heads, group, width], sorted by prompt; `prompts` are (rows, keys, values).
    """
    _, shared, group, width = query.shape
    start, found = 0, []
    for rows, key, value in prompts:
        some = query[start : start + rows].transpose(0, 1).reshape(shared, rows * group, width)
        output, normaliser = with_normaliser(some, key, value, scaling)
        found.append((output.view(shared, rows, group, -1), normaliser.view(shared, rows, group, 1)))
        start += rows
    outputs, normalisers = zip(*found, strict=True)
    return torch.cat(outputs, dim=1).transpose(0, 1), torch.cat(normalisers, dim=1).transpose(0, 1)


def with_normaliser(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return softmax(q kᵀ · scaling) v [heads, queries, width] and log Σ exp(q kᵀ · scaling) [heads, queries] in float32.

    Shapes: query [heads, queries, width], key and value [heads, tokens, width].
    """
    if query.device.type == "cpu" and value.shape[-1] == query.shape[-1]:
        output, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001 - the kernel of sdpa, which tells no normaliser
            query[None], key[None], value[None], scale=scaling
        )
        return output[0], normaliser[0]
    scores = (query @ key.transpose(1, 2)).float() * scaling
    return torch.softmax(scores, dim=-1).to(value.dtype) @ value, scores.logsumexp(dim=-1)
