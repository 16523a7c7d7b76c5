"""Adafactor as in T5X: parameter scaling, a constant rate, update clipping at 1, decay 1 − step^−0.8, no momentum.

The arithmetic is that of transformers' Adafactor(scale_parameter=True, relative_step=False), held to it by a test.
That one goes over a weight some fifteen times, through copies of its size; this one goes over it five times, in
blocks of rows that stay in the processor's cache, and on the way rounds the result into the model. torch's own
Adafactor lowers the rate to 1/√step once that is smaller, so its rate is not constant. Two differences from T5X
stay: every matrix is factored, also those with a side below 128, and stacked layers are scaled one by one.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rso_core.split_weights import SplitWeight
from rso_core.threads import on_one_thread_each

_DECAY = -0.8
_SQUARE_FLOOR = 1e-30
_SCALE_FLOOR = 1e-3
_CLIP = 1.0
_ALONE = 1 << 16  # numbers of a weight from which on it has a thread of its own
_BLOCK = 1 << 17  # numbers worked on at once: half a megabyte in float32


class Adafactor(torch.optim.Optimizer):
    """Changes float32 weights by their gradients; `copies` maps some of them to what is rounded from them.

    `splits` maps some to where their numbers are instead: the weight itself then has the gradient only.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        copies: Mapping[Tensor, Tensor] | None = None,
        splits: Mapping[Tensor, SplitWeight] | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr})
        self._copies, self._splits = dict(copies or {}), dict(splits or {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do one step; weights without a gradient stay."""
        if closure is not None:
            message = "a step takes no closure here"
            raise ValueError(message)
        found = [(p, p.grad, group["lr"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        found.sort(key=lambda one: -one[0].numel())  # the longest first, so that threads end together
        on_one_thread_each(self._change, [one for one in found if _is_alone(one[0])])
        for one in found:
            if not _is_alone(one[0]):
                self._change(one)

    def _change(self, one: tuple[Tensor, Tensor, float]) -> None:
        param, grad, rate = one
        state = self.state[param]
        state["step"] = state.get("step", 0) + 1
        beta = 1.0 - state["step"] ** _DECAY
        if param.dim() < 2:  # noqa: PLR2004 - vectors are not factored
            size = rate * max(_SCALE_FLOOR, _root_mean_square([param]))
            _change_vector(param, grad, state, (beta, size), self._copies.get(param))
            return
        held = self._splits.get(param) or _Whole(param, self._copies.get(param))
        size = rate * max(_SCALE_FLOOR, _root_mean_square(held.read(at) for at in _blocks(grad)))
        _change_matrix(held, grad, state, (beta, size))


def _is_alone(param: Tensor) -> bool:
    """Return whether a weight has a thread of its own; small ones take less time than handing them over does."""
    return param.numel() >= _ALONE and param.device.type == "cpu"


class _Whole:
    """A float32 matrix with what is rounded from it."""

    def __init__(self, values: Tensor, copy: Tensor | None) -> None:
        self._values, self._copy = values, copy

    def read(self, at: tuple[Any, ...]) -> Tensor:
        return self._values[at]

    def write(self, values: Tensor, at: tuple[Any, ...]) -> None:
        """Round some rows, which were changed in place."""
        if self._copy is not None:
            self._copy[at].copy_(values)


def _change_vector(
    param: Tensor, grad: Tensor, state: dict[str, Any], step: tuple[float, float], copy: Tensor | None
) -> None:
    beta, size = step
    square = _average(state, "exp_avg_sq", grad.square().add_(_SQUARE_FLOOR), beta)
    update = square.rsqrt().mul_(grad)
    param.sub_(update.mul_(size / max(1.0, _root_mean_square([update]) / _CLIP)))
    if copy is not None:
        copy.copy_(param)


def _change_matrix(held: SplitWeight | _Whole, grad: Tensor, state: dict[str, Any], step: tuple[float, float]) -> None:
    """Subtract gradient × the factors of its rows and columns, its root mean square at most 1, × size."""
    beta, size = step
    rows, columns = _means_of_squares(grad)
    row = _average(state, "exp_avg_sq_row", rows, beta)
    column = _average(state, "exp_avg_sq_col", columns, beta).unsqueeze(-2).rsqrt()
    row = (row / row.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
    updates = ((grad[at] * column[at[:-1]]).mul_(row[at]) for at in _blocks(grad))
    size /= max(1.0, _root_mean_square(updates) / _CLIP)
    for at in _blocks(grad):
        part = held.read(at)
        part.sub_((grad[at] * column[at[:-1]]).mul_(row[at] * size))
        held.write(part, at)


def _average(state: dict[str, Any], name: str, value: Tensor, beta: float) -> Tensor:
    """Return the running average in `state` with `value` in it."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    average: Tensor = state[name].mul_(beta).add_(value, alpha=1.0 - beta)
    return average


def _root_mean_square(parts: Iterable[Tensor]) -> float:
    """Return that of all numbers of the parts; a device is waited for once, not for every part."""
    total: Tensor | float = 0.0
    count = 0
    for part in parts:
        total = torch.linalg.vector_norm(part).double().square_() + total
        count += part.numel()
    return math.sqrt(float(total) / max(1, count))


def _blocks(value: Tensor) -> Iterator[tuple[Any, ...]]:
    """Yield indices of blocks of rows, matrix by matrix where they are stacked."""
    height, width = value.shape[-2:]
    rows = max(1, _BLOCK // max(1, width))
    for matrix in itertools.product(*map(range, value.shape[:-2])):
        for start in range(0, height, rows):
            yield (*matrix, slice(start, start + rows))


def _means_of_squares(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of the squared gradient over columns [..., rows] and over rows [..., columns]."""
    rows = grad.new_empty(grad.shape[:-1])
    columns = grad.new_zeros(grad.shape[:-2] + grad.shape[-1:])
    for at in _blocks(grad):
        square = grad[at].square()
        rows[at] = square.mean(dim=-1)
        columns[at[:-1]] += square.sum(dim=-2)
    columns /= grad.shape[-2]
    return rows.add_(_SQUARE_FLOOR), columns.add_(_SQUARE_FLOOR)
