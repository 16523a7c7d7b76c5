"""A float32 weight as two halves of 16 bits: its rounding to bfloat16, which is the model's own weight, and the rest.

The two take as much memory as the float32 alone, so a weight trained through such a master needs 4 bytes, not 6. The
rest is the low half of the float32's bits, taken with a sign: how far the weight lies from its rounding, in units of its
last place. One number in 65,536, exactly half-way and rounded down, would need 32,768: it loses one unit.
"""

import sys
from typing import Any

import torch
from torch import Tensor

_LEAST = -(1 << 15)
_MOST = (1 << 15) - 1


class SplitWeight:
    """A float32 matrix over a bfloat16 weight of a model, which changes with it."""

    def __init__(self, rounded: Tensor) -> None:
        self.rounded = rounded.detach()
        self.rest = torch.zeros(rounded.shape, dtype=torch.int16)

    @staticmethod
    def serves(weight: Tensor) -> bool:
        """Return whether a weight can be kept so: a matrix of bfloat16 on a CPU that puts low bits first."""
        of_kind = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.dim() > 1
        return of_kind and weight.is_contiguous() and sys.byteorder == "little"

    def read(self, at: tuple[Any, ...] = ()) -> Tensor:
        """Return some rows in float32; they are not the weight's memory."""
        bits = self.rounded[at].view(torch.int16).to(torch.int32)
        return bits.bitwise_left_shift_(16).add_(self.rest[at]).view(torch.float32)

    def write(self, values: Tensor, at: tuple[Any, ...] = ()) -> None:
        """Let some rows have these float32 values; the model has them rounded."""
        rounded, rest = self.rounded[at], self.rest[at]
        rounded.copy_(values)
        halves = values.contiguous().view(torch.int16).view(*values.shape, 2)
        rest.copy_(halves[..., 0])
        half_way = (rest == _LEAST).nonzero(as_tuple=True)
        down = halves[..., 1][half_way] == rounded.view(torch.int16)[half_way]
        rest[half_way] = torch.where(down, _MOST, _LEAST).to(torch.int16)
