"""The last layer of a decoder, for the tokens whose last hidden state is wanted.

The other tokens are in it for their keys and values only. What looks at each token alone, the product after the attention
and the gated part, five sixths of a layer's weights, is computed for the wanted tokens: the one that answers a
comparison, those that predict a response. In a model of 30 layers that is up to 3 % of all products.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rso_core.lean_layers import GATED

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

_MARK = "computes_wanted_tokens"


class _Wanted(threading.local):
    """What this thread's forward pass wants of which parts: places in the packed row, and how long that is.

    Lanes share layers, so that a layer cannot know. A part that adapters were put around is marked, but none of these.
    """

    parts: Sequence[nn.Module] = ()
    places: Tensor
    tokens: int


_now = _Wanted()
_marking = threading.Lock()


@contextmanager
def wanting(lm: "LanguageModel", places: Tensor, tokens: int) -> Iterator[None]:
    """Let the last layer be computed for these places [wanted] of a packed row of `tokens`, whose other states mean nothing.

    All are computed where the layer is of another kind, and with activation checkpointing, whose second forward pass
    happens where nobody knows what is wanted.
    """
    parts = [] if lm.is_checkpointed and torch.is_grad_enabled() else _parts(lm.plain)
    if not parts:
        yield
        return
    with _marking:
        for part in parts:
            _mark(part)
    _now.places, _now.tokens = torch.unique(places), tokens  # what is there twice would get its gradient twice
    _now.parts = parts
    try:
        yield
    finally:
        _now.parts = ()


def _parts(plain: Any) -> list[nn.Module]:
    """Return what looks at each token alone in the last layer of a Llama-type decoder; nothing of any other model."""
    layers = getattr(plain.base_model, "layers", None)
    last = layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None
    gated, output = getattr(last, "mlp", None), getattr(getattr(last, "self_attn", None), "o_proj", None)
    known = all(hasattr(gated, name) for name in GATED)
    return [gated, output] if isinstance(gated, nn.Module) and isinstance(output, nn.Module) and known else []


def _mark(part: nn.Module) -> None:
    """Let a part take the wanted tokens and give zeros for the others. Copies of it do the same."""
    if _MARK not in vars(part):  # what adapters were put around says that it has what is inside it
        part.register_forward_pre_hook(_take)
        part.register_forward_hook(_spread)
        setattr(part, _MARK, True)


def _take(part: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    if part not in _now.parts:
        return None
    return inputs[0].index_select(1, _now.places), *inputs[1:]


def _spread(part: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    if part not in _now.parts:
        return None
    return output.new_zeros(1, _now.tokens, output.shape[-1]).index_copy(1, _now.places, output)
