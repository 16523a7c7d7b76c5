"""A side that multiplies only: the products of a forward pass at the shapes of a model, with weights of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.flops import flops, matrices_of
from benchmarks.worker import Prepared, Round


def prepare(settings: Mapping[str, Any]) -> Prepared:
    """Make random weights. Settings: model (for its shapes), tokens (of a pass), passes (of a round), and the harness's."""
    import torch

    torch.set_num_threads(settings["threads"])
    kind = getattr(torch, settings["dtype"])
    matrices = matrices_of(Path(settings["model"]))
    weights = [torch.randn(shape, dtype=kind) for shape in (*matrices.layers, matrices.head)]
    inputs = {width: torch.randn(settings["tokens"], width, dtype=kind) for width in {w.shape[1] for w in weights}}
    tokens, passes = settings["tokens"], settings["passes"]
    needed = flops(matrices, tokens=tokens, head_tokens=tokens, attended=0, training=False)

    @torch.inference_mode()
    def run() -> Round:
        for _ in range(passes):
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)
        return Round(items=passes, tokens=passes * tokens, flops=passes * needed)

    return Prepared(run, {"tokens_per_forward": tokens})
