"""Linear layers whose weights lie as the processor's kernels read them, while a model only samples.

For every product with a bfloat16 weight oneDNN puts the weight into an order of its own; with the 64 rows of a decoding
step that takes a sixth of the time, with one row a fifth. Here it is done once. The products are the same up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rso_core.models import LanguageModel

MOST_BYTES = 1 << 30  # the reordered weights take as much memory as the weights: large models do without


class ReadyWeights:
    """The reordered weights of a model's plain linear layers, empty where they are of no use.

    They are those of the moment at which this is made: the model must not be trained as long as it is used.
    """

    def __init__(self, lm: LanguageModel, rows: int) -> None:
        linear = (layer for layer in lm.plain.modules() if type(layer) is torch.nn.Linear)
        layers = [layer for layer in linear if "forward" not in vars(layer)]  # else somebody else replaced it
        size = sum(layer.weight.nbytes for layer in layers)
        useful = lm.device.type == "cpu" and lm.dtype == torch.bfloat16 and _multiplies_bfloat16()
        self._forwards: list[tuple[Any, partial[Tensor]]] = [
            (layer, _forward(layer, rows)) for layer in layers if useful and size <= MOST_BYTES
        ]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the layers multiply by the reordered weights."""
        for layer, forward in self._forwards:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in self._forwards:
                vars(layer).pop("forward", None)  # the class's own is seen again, unless another thread saw to it


def _multiplies_bfloat16() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call] # noqa: SLF001 - as below


def _forward(layer: torch.nn.Linear, rows: int) -> partial[Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)  # noqa: SLF001 - what torch.compile calls for the same
    return partial(_product, weight=weight, bias=layer.bias)


def _product(values: Tensor, *, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")  # noqa: SLF001 - see above
    return product
