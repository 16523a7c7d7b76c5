"""Floating-point operations of the matrix products a decoder-only model needs: the numerator of utilisation.

Counted is what the algorithm needs, not what a program happens to compute: no padding, no recomputation, the output
layer, and what looks at each token alone in the last layer, only where a token is predicted, attention only between
positions that see each other. A training pass is three times a forward pass. Reads shapes from the safetensors headers; needs no torch.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Matrices:
    """layers: (out, in) of every linear layer a token passes. ending: those of them that only predicting tokens need.

    head: (vocabulary, hidden). attention_width: heads × size, summed over layers.
    """

    layers: tuple[tuple[int, int], ...]
    ending: tuple[tuple[int, int], ...]
    head: tuple[int, int]
    attention_width: int


def matrices_of(model: Path) -> Matrices:
    """Return the matrices of the decoder-only model in a folder."""
    shapes = dict(_shapes(model))
    head = next((shape for name, shape in shapes.items() if "lm_head" in name), None)
    embedding = next(shape for name, shape in shapes.items() if "embed_tokens" in name or "wte" in name)
    outside = ("embed", "lm_head", "wte", "wpe")
    layers = {name: shape for name, shape in shapes.items() if not any(word in name for word in outside)}
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    last = f"layers.{config['num_hidden_layers'] - 1}."
    ending = (shape for name, shape in layers.items() if last in name and ("mlp" in name or "o_proj" in name))
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    size = config.get("head_dim") or hidden // heads
    return Matrices(
        tuple(layers.values()), tuple(ending), head or embedding, config["num_hidden_layers"] * heads * size
    )


def _shapes(model: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (name, shape) of every matrix; a safetensors file begins with its header's length and the header."""
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in sorted(header.items()):
            if name != "__metadata__" and len(entry["shape"]) == 2:  # noqa: PLR2004 - a matrix
                yield name, (entry["shape"][0], entry["shape"][1])


def flops(matrices: Matrices, *, tokens: int, head_tokens: int, attended: int, training: bool) -> float:
    """Return the operations of `tokens` through the layers, `head_tokens` that predict, `attended` pairs of positions."""
    dense = 2 * tokens * _size(matrices.layers) - 2 * (tokens - head_tokens) * _size(matrices.ending)
    head = 2 * head_tokens * matrices.head[0] * matrices.head[1]
    attention = 4 * attended * matrices.attention_width  # queries by keys, then weights by values
    return float(dense + head + attention) * (3 if training else 1)


def _size(matrices: Iterable[tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in matrices)


def grouped_flops(matrices: Matrices, groups: Sequence[Mapping[str, Any]], *, training: bool) -> float:
    """Return the operations of one pass over groups, each prompt read once for all of its responses."""
    return sum(
        flops(
            matrices,
            tokens=len(group["prompt"]) + sum(lengths),
            head_tokens=sum(lengths),
            attended=attended_pairs(len(group["prompt"]), lengths),
            training=training,
        )
        for group in groups
        for lengths in [[len(ids) for ids in group["responses"]]]
    )


def attended_pairs(prompt: int, responses: Sequence[int]) -> int:
    """Return how many (query, key) pairs see each other: causal, and every response sees the prompt and itself."""
    return prompt * (prompt + 1) // 2 + sum(length * prompt + length * (length + 1) // 2 for length in responses)
