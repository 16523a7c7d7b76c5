"""Policy fitting: pairs a second of one step, against TRL's DPOTrainer and, for T5, straightforward transformers code.

Results: fitting_200_48, fitting_hh, fitting_oasst (with --oasst FILE), direct_pairs, fitting_t5; --only names some. A step is
8 prompts × 8 responses with 4 pairs each (direct pairs: 32 prompts with their own two responses). The same token ids and the
same optimizer on both sides, reference log-probs computed before; the peer's micro-batch and weights are the fastest of those
tried. Adafactor is the paper's; ours keeps float32 masters of bfloat16 weights, which the peers do not.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.fitting_ours import random_t5, with_references
from benchmarks.flops import grouped_flops, matrices_of
from benchmarks.harness import Side, compare, dtype, finish, parser_of_cases, peer_python, require, tuned, wanted
from benchmarks.texts import Group, cut_groups, described, grouped_tokens, pairs_as_groups, plain_tokens, real_groups

# The size of T5 small: 60M weights.
T5 = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
_SHARED = {"learning_rate": 1e-6, "gamma": 0.05}
_LONGEST_RESPONSE = 256  # as a sampling limit would cut
_MICRO_PAIRS = (4, 2, 8)


def main() -> None:
    """Measure what --only names (default: everything that the given files allow)."""
    made = parser_of_cases(__doc__, _CASES)
    made.add_argument(
        "--prompts", type=int, default=8, help="prompts in a step (default 8; four times as many with direct pairs)"
    )
    options = made.parse_args()
    require(options, "model", "preferences")
    finish([_CASES[name](name, options) for name in wanted(_CASES, options)], options)


def _against(  # noqa: PLR0913 - what a row states, and on what
    peer: tuple[str, str],
    name: str,
    groups: Sequence[Group],
    options: argparse.Namespace,
    *,
    data: dict[str, Any],
    flops: float,
    target: dict[str, float],
    micro_batch: int,
    notes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the result of our step against a peer's (its name and module) on the same `data`: model and pairs."""
    tokens = grouped_tokens(groups)
    ours = {
        "tokens": tokens,
        "flops": flops,
        "tokens_per_forward": tokens // len(groups),
        "fitting": _SHARED | {"loss": "sigmoid_norm", "micro_batch_size": micro_batch},
    }
    theirs = _SHARED | {"optimizer": "adafactor", "gradient_checkpointing": False}
    return compare(
        name,
        Side("rso_core", "benchmarks.fitting_ours", data | ours),
        _tuned(name, Side(*peer, data | theirs, peer_python()), options),
        options,
        lengths=described(groups),
        token_bound=plain_tokens(groups) / tokens,
        target=target,
        item="pairs",
        notes=notes,
    )


def _tuned(name: str, peer: Side, options: argparse.Namespace) -> Side:
    """Return the peer with the fastest micro-batch, and with the faster of two kinds of weights where it has both.

    They are tried on the first quarter of the pairs.
    """
    candidates: list[dict[str, Any]] = [{"micro_pairs": size, "weights": "same"} for size in _MICRO_PAIRS]
    if dtype(options) == "bfloat16" and peer.module.endswith(".dpo"):
        candidates.append({"micro_pairs": _MICRO_PAIRS[0], "weights": "autocast"})
    pairs = peer.settings["pairs"]
    return tuned(peer, candidates, options, name=name, small={"pairs": pairs[: max(8, len(pairs) // 4)]})


def _against_trl(
    name: str, groups: Sequence[Group], target: dict[str, float], options: argparse.Namespace
) -> dict[str, Any]:
    micro_batch = 4 if "memory" in target else 8  # pairs: one prompt's, or the product's default
    data = {"model": str(options.model), "pairs": as_pairs(groups)}
    flops = grouped_flops(matrices_of(options.model), groups, training=True)
    return _against(
        ("TRL DPOTrainer", "benchmarks.peers.dpo"),
        name,
        groups,
        options,
        data=data,
        flops=flops,
        target=target,
        micro_batch=micro_batch,
    )


def as_pairs(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the pairs of groups: the first response against the second, the third against the fourth, and so on."""
    return [
        {"prompt": group["prompt"], "chosen": chosen, "rejected": rejected}
        for group in groups
        for chosen, rejected in zip(group["responses"][::2], group["responses"][1::2], strict=True)
    ]


def _cut_to_200_48(options: argparse.Namespace) -> list[Group]:
    pairs = pairs_as_groups(options.model, options.preferences)
    return cut_groups(
        pairs, prompts=options.prompts, responses=8, prompt_tokens=200, response_tokens=48, seed=options.seed
    )


def _cut(name: str, options: argparse.Namespace) -> dict[str, Any]:
    return _against_trl(name, _cut_to_200_48(options), {"speedup": 6.0, "memory": 0.5, "utilisation": 0.25}, options)


def _real(
    file: str, target: dict[str, float], *, responses: int = 8
) -> Callable[[str, argparse.Namespace], dict[str, Any]]:
    """Return the measurement of real prompts of the file that an option names."""

    def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
        require(options, file)
        groups = real_groups(
            pairs_as_groups(options.model, getattr(options, file)),
            prompts=options.prompts * 8 // responses,
            responses=responses,
            seed=options.seed,
            longest=_LONGEST_RESPONSE,
        )
        return _against_trl(name, groups, target | {"utilisation": 0.25}, options)

    return measure


def _t5(name: str, options: argparse.Namespace) -> dict[str, Any]:
    groups = [
        {"prompt": _in_t5(group["prompt"]), "responses": [_in_t5(ids) for ids in group["responses"]]}
        for group in _cut_to_200_48(options)
    ]
    pairs = as_pairs(groups)
    references = with_references(random_t5(T5, dtype(options), options.seed), pairs)
    for pair, (chosen, rejected) in zip(pairs, references, strict=True):
        pair |= {"reference_chosen": chosen, "reference_rejected": rejected}
    once = sum(len(group["prompt"]) for group in groups)
    repeated = sum(len(group["prompt"]) * len(group["responses"]) for group in groups)
    decoded = sum(len(ids) for group in groups for ids in group["responses"])
    bound = _t5_flops(repeated, decoded) / _t5_flops(once, decoded)
    return _against(
        ("transformers", "benchmarks.peers.plain_dpo"),
        name,
        groups,
        options,
        data={"config": T5, "pairs": pairs},
        flops=0.0,  # the roof is measured at the shapes of another model
        target={"bound_share": 0.7},
        micro_batch=8,
        notes={"model": json.dumps(T5), "bound_of_operations": bound},
    )


def _in_t5(ids: Sequence[int]) -> list[int]:
    """Return ids of T5's vocabulary in place of another tokenizer's: only their number matters here."""
    return [*(3 + token % 32000 for token in ids[:-1]), 1]


def _t5_flops(encoded: int, decoded: int) -> float:
    """Return the operations of the matrix products of a training step, without attention scores."""
    width, inner, layers = T5["d_model"], T5["d_ff"], T5["num_layers"]
    square = width * T5["num_heads"] * T5["d_kv"]
    of_encoder = layers * (4 * square + 2 * width * inner + 2 * square)  # with the keys and values the decoder reads
    of_decoder = layers * (6 * square + 2 * width * inner) + width * T5["vocab_size"]
    return 3.0 * 2.0 * (encoded * of_encoder + decoded * of_decoder)


_CASES: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {
    "fitting_200_48": _cut,
    "fitting_hh": _real("preferences", {"speedup": 5.0, "memory": 0.5}),
    "fitting_oasst": _real("oasst", {"memory": 0.5}),
    "direct_pairs": _real("preferences", {"speedup": 3.5}, responses=2),
    "fitting_t5": _t5,
}

if __name__ == "__main__":
    main()
