"""Norms and gated layers that keep less for the backward pass, and take fewer passes over memory in it.

Autograd keeps what every single operation of a layer was given, much of it in float32: for a Llama-type model nearly
half of the activations. These layers keep their inputs and compute the rest again, in blocks that stay in the
processor's cache. The forward pass is the layer's own, to the bit; which layers are of a known kind is not listed but
tried, and any other stays as it is.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

_BLOCK = 1 << 19  # numbers worked on at once: 2 MB in float32
GATED = ("gate_proj", "up_proj", "down_proj")  # the products of a Llama-type gated layer
Apply = Callable[[Any, Tensor], Tensor]  # (layer, hidden states) → its output


def make_lean(model: nn.Module) -> None:
    """Exchange the norms and gated layers of a model, in place, where the leaner kind gives the same numbers."""
    same: dict[type, bool] = {}
    for layer in model.modules():
        apply = _kind(layer)
        if apply is not None and same.setdefault(type(layer), _agrees(layer, apply)):
            kind: Any = type(layer)
            layer.__class__ = _lean_class(kind, apply)


def _kind(layer: Any) -> Apply | None:
    if hasattr(layer, "variance_epsilon") and isinstance(getattr(layer, "weight", None), nn.Parameter):
        return _norm
    parts = (getattr(layer, name, None) for name in GATED)
    return _gated if all(type(part) is nn.Linear and part.bias is None for part in parts) else None


@cache
def _lean_class(kind: type[Any], apply: Apply) -> type[Any]:
    """Return a layer's class with another forward pass, taken when a backward pass may follow."""

    def forward(self: Any, hidden: Tensor) -> Tensor:
        if torch.is_grad_enabled() and _kind(self) is apply:  # adapters may have been put into the layer
            return apply(self, hidden)
        found: Tensor = kind.forward(self, hidden)
        return found

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


@torch.no_grad()
def _agrees(layer: nn.Module, apply: Apply) -> bool:
    """Return whether both kinds of a layer give the same numbers for some input."""
    weight = next(layer.parameters())
    rows = torch.linspace(-2, 3, 3 * weight.shape[-1], device=weight.device).view(3, -1).to(weight.dtype)
    try:
        return torch.equal(layer(rows), apply(layer, rows))
    except (TypeError, RuntimeError, AttributeError):
        return False


def _norm(layer: Any, hidden: Tensor) -> Tensor:
    found: Tensor = _RootMeanSquareNorm.apply(hidden, layer.weight, layer.variance_epsilon)  # type: ignore[no-untyped-call]
    return found


class _RootMeanSquareNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Return weight · hidden / √(mean of squares + ε), normed in float32."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        found, scales = torch.empty_like(rows), rows.new_empty(len(rows), 1, dtype=torch.float32)
        for at in _blocks(rows):
            floats = rows[at].to(torch.float32, copy=True)
            scales[at] = torch.rsqrt(floats.pow(2).mean(-1, keepdim=True) + epsilon)
            torch.mul(weight, floats.mul_(scales[at]).to(weight.dtype), out=found[at])
        ctx.save_for_backward(rows, weight, scales)
        return found.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, scales = ctx.saved_tensors
        gradient = gradients[0].reshape(rows.shape)
        of_rows = torch.empty_like(rows)
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        float_weight = weight.float()
        for at in _blocks(rows):
            slopes = gradient[at].to(torch.float32, copy=True)
            normed = rows[at].to(torch.float32, copy=True).mul_(scales[at])
            if of_weight is not None:
                of_weight += (slopes * normed).sum(dim=0)
            slopes.mul_(float_weight)
            share = (slopes * normed).mean(dim=-1, keepdim=True)
            of_rows[at] = slopes.sub_(normed.mul_(share)).mul_(scales[at])
        of_weight = None if of_weight is None else of_weight.to(weight.dtype)
        return of_rows.view(gradients[0].shape), of_weight, None


def _blocks(rows: Tensor) -> Iterator[slice]:
    step = max(1, _BLOCK // rows.shape[-1])
    return (slice(start, start + step) for start in range(0, len(rows), step))


def _gated(layer: Any, hidden: Tensor) -> Tensor:
    gate, up = layer.gate_proj(hidden), layer.up_proj(hidden)
    found: Tensor = _GatedDown.apply(gate, up, layer.down_proj.weight)  # type: ignore[no-untyped-call]
    return found


class _GatedDown(torch.autograd.Function):
    """(silu(gate) · up) Wᵀ; the product is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return torch.nn.functional.linear(silu(gate).mul_(up), weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        gradient, active = gradients[0], silu(gate)
        of_weight = None
        if ctx.needs_input_grad[2]:
            of_weight = gradient.flatten(0, -2).T @ (active * up).flatten(0, -2)
        of_product = gradient @ weight
        of_up = active.mul_(of_product)
        of_gate = torch.ops.aten.silu_backward(of_product.mul_(up), gate)
        return of_gate, of_up, of_weight
