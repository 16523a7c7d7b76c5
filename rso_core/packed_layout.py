"""Token sequences that share their beginnings, written one after another without padding.

A prompt with its responses, or a context with its candidates, is a tree of segments: each continues the segment
above it. A forest of them is packed into one row of tokens, depth first, so that what continues a segment stands
right behind it. A token then sees another exactly when that one comes before it and the other's segment is one
of its own or one above: `key ≤ query < end of what continues the key's segment`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

LONG = 256  # from here on a segment's attention is computed by itself, not padded together with others


@dataclass(frozen=True)
class Segment:
    """Token ids, at least one, and the segments that continue them."""

    ids: Sequence[int]
    after: Sequence["Segment"] = ()


@dataclass
class Layout:
    """Where the segments of a forest stand in the packed row of N tokens; segments are numbered depth first."""

    device: torch.device
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    tree_ends: list[int] = field(default_factory=list)  # end of the last segment that continues this one
    parents: list[int] = field(default_factory=list)  # -1: the segment begins a tree
    positions: list[int] = field(default_factory=list)  # of each segment's first token, counted along its path
    reads: int = 0  # attention layers that used it
    blocks: Any = None  # the mask as FlexAttention's blocks, once made

    @property
    def tokens(self) -> int:
        """Return N, the tokens of the packed row."""
        return self.ends[-1] if self.ends else 0

    @property
    def leaves(self) -> list[int]:
        """Return the segments that nothing continues."""
        return [i for i, (end, tree_end) in enumerate(zip(self.ends, self.tree_ends, strict=True)) if end == tree_end]

    def last_tokens(self, segments: Sequence[int]) -> Tensor:
        """Return the index [segments] of each segment's last token."""
        return torch.tensor([self.ends[i] - 1 for i in segments], dtype=torch.long, device=self.device)

    def own_tokens(self, segments: Sequence[int]) -> Tensor:
        """Return the indices of all tokens of some segments, one segment after another."""
        spans = [torch.arange(self.starts[i], self.ends[i]) for i in segments]
        return torch.cat(spans).to(self.device)

    def predicting_tokens(self, segments: Sequence[int]) -> Tensor:
        """Return, for each of `own_tokens`, the index of the token before it on its path: what predicts it.

        Raises ValueError for a segment that begins a tree, since nothing predicts its first token.
        """
        if any(self.parents[i] < 0 for i in segments):
            message = "the first token of a tree has none before it that could predict it"
            raise ValueError(message)
        spans = [
            torch.cat([torch.tensor([self.ends[self.parents[i]] - 1]), torch.arange(self.starts[i], self.ends[i] - 1)])
            for i in segments
        ]
        return torch.cat(spans).to(self.device)

    @cached_property
    def position_ids(self) -> Tensor:
        """Return each token's position on its path, [N]."""
        shift = torch.tensor([p - s for p, s in zip(self.positions, self.starts, strict=True)])
        return (torch.arange(self.tokens) + shift.repeat_interleave(self._lengths)).to(self.device)

    @cached_property
    def seen_until(self) -> Tensor:
        """Return for each token the index before which later tokens see it, [N]."""
        return torch.tensor(self.tree_ends).repeat_interleave(self._lengths).to(self.device)

    @cached_property
    def mask(self) -> Tensor:
        """Return which token (row) sees which (column), [N, N]: the definition of the attention."""
        index = torch.arange(self.tokens, device=self.device)
        return (index[None, :] <= index[:, None]) & (index[:, None] < self.seen_until[None, :])

    @property
    def _lengths(self) -> Tensor:
        return torch.tensor([end - start for start, end in zip(self.starts, self.ends, strict=True)])

    @cached_property
    def shared(self) -> list[tuple[slice, slice]]:
        """Return (tokens that continue a segment, that segment) for every continued segment."""
        spans = zip(self.starts, self.ends, self.tree_ends, strict=True)
        return [(slice(end, tree_end), slice(start, end)) for start, end, tree_end in spans if tree_end > end]

    @cached_property
    def alone(self) -> list[slice]:
        """Return the segments whose attention to themselves is computed one by one."""
        grouped = {i for rows in self._buckets for i in rows}
        return [slice(self.starts[i], self.ends[i]) for i in range(len(self.starts)) if i not in grouped]

    @cached_property
    def together(self) -> list["Rows"]:
        """Return the segments whose attention to themselves is computed as a batch of similar lengths."""
        return [self._rows(rows) for rows in self._buckets]

    @cached_property
    def _buckets(self) -> list[list[int]]:
        """Return short segments of similar lengths, as `padded_together` says."""
        found: dict[int, list[int]] = {}
        for i, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            if end - start < LONG:
                found.setdefault(padded_together(end - start), []).append(i)
        return [rows for rows in found.values() if len(rows) > 1]

    def _rows(self, segments: Sequence[int]) -> "Rows":
        starts = torch.tensor([self.starts[i] for i in segments])
        lengths = torch.tensor([self.ends[i] - self.starts[i] for i in segments])
        columns = torch.arange(int(lengths.max()))
        real = columns[None, :] < lengths[:, None]
        tokens = starts[:, None] + columns[None, :].minimum(lengths[:, None] - 1)
        return Rows(tokens.to(self.device), (~real).to(self.device))


def padded_together(length: int) -> int:
    """Return the longest length that segments of this one are padded to: a quarter more, or 16 tokens."""
    step = max(4, 1 << max(0, (length - 1).bit_length() - 3))
    return max(16, -(-length // step) * step)


@dataclass(frozen=True)
class Rows:
    """Segments as rows of a batch: `tokens` [rows, longest] indexes the packed row; `padding` is what does not count.

    A row shorter than the longest repeats its last token; what is computed there is never read back.
    """

    tokens: Tensor
    padding: Tensor

    @cached_property
    def real(self) -> Tensor:
        """Return the places that count, in the flattened batch."""
        return (~self.padding).flatten().nonzero().squeeze(1)

    @cached_property
    def targets(self) -> Tensor:
        """Return where each place that counts stands in the packed row."""
        return self.tokens.flatten()[self.real]


def pack(forest: Sequence[Segment], device: torch.device) -> tuple[Tensor, Layout]:
    """Return the packed token ids [N] of a forest and their layout."""
    layout = Layout(device)
    ids: list[int] = []
    for tree in forest:
        _place(tree, layout, ids, parent=-1, position=0)
    return torch.tensor(ids, dtype=torch.long, device=device), layout


def _place(segment: Segment, layout: Layout, ids: list[int], *, parent: int, position: int) -> None:
    number = len(layout.starts)
    layout.starts.append(len(ids))
    ids.extend(segment.ids)
    layout.ends.append(len(ids))
    layout.tree_ends.append(len(ids))
    layout.parents.append(parent)
    layout.positions.append(position)
    for child in segment.after:
        _place(child, layout, ids, parent=number, position=position + len(segment.ids))
    layout.tree_ends[number] = len(ids)
