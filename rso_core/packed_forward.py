"""One forward pass over a packed forest: every token of every segment is computed once.

Decoder-only models read a prompt once for all of its responses, and a context once for all of its candidates.
Which models can is not listed but tried: `packs` compares a tiny forest with its paths read one by one.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rso_core.attention import ATTENTION, packing_mask
from rso_core.gradient_sinks import embedded
from rso_core.last_layer import wanting
from rso_core.models import LanguageModel, dropouts
from rso_core.packed_attention import packed_attention
from rso_core.packed_layout import Layout, Segment, pack

logger = logging.getLogger(__name__)
# Of the logits' own size. In bfloat16 plain passes in batches of other shapes differ by 0.15 in 30 layers; a wrong mask by 1.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_TOLERANCE_HALF = 0.35
_known: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def packed_hidden(
    lm: LanguageModel, forest: Sequence[Segment], wanted: Callable[[Layout], Tensor]
) -> tuple[Tensor, Layout]:
    """Return the last hidden states, [wanted, width], of the tokens of a forest that `wanted` names, and where all stand.

    Only for models of which `packs` is true. The output embedding makes logits of them: `head(lm)(hidden)`.
    """
    ids, layout = pack(forest, lm.device)
    places = wanted(layout)
    with wanting(lm, places, layout.tokens):
        output = lm.plain.base_model(
            inputs_embeds=embedded(lm.plain.get_input_embeddings(), ids[None]),
            attention_mask=packing_mask(partial(packed_attention, layout=layout), lm.device),
            position_ids=layout.position_ids[None],
            use_cache=False,
        )
    hidden: Tensor = output.last_hidden_state[0].index_select(0, places)
    return hidden, layout


def ends(layout: Layout) -> Tensor:
    """Return the last token of every path: what answers a comparison."""
    return layout.last_tokens(layout.leaves)


def head(lm: LanguageModel) -> torch.nn.Linear:
    """Return the output embedding: next-token logits are `head(lm)(hidden)`."""
    layer: torch.nn.Linear = lm.plain.get_output_embeddings()
    return layer


def packs(lm: LanguageModel) -> bool:
    """Return whether a decoder-only model's packed forward is exact, found out once a model.

    It is not with sliding windows, soft caps, ALiBi, recurrence, scaled logits, or dropout in training.
    """
    return lm.family == "causal" and trusted(lm, _agrees)


def trusted(lm: LanguageModel, agrees: Callable[[LanguageModel], bool]) -> bool:
    """Return whether `agrees` says that a packed forward is exact. It is asked once a model, in evaluation mode."""
    plain, trained = lm.plain, lm.model.training
    if plain.training and any(dropouts(plain.config).values()):
        return False  # each response would need noise of its own on the prompt
    if plain not in _known:
        lm.model.eval()
        try:
            with torch.no_grad():
                _known[plain] = _plain_layers(plain.config) and agrees(lm)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
            _known[plain] = False
        lm.model.train(trained)
        if not _known[plain]:
            logger.info("%s reads responses one by one: it cannot share the prompt exactly", type(plain).__name__)
    return _known[plain]


def share_trust(copy: LanguageModel, original: LanguageModel) -> None:
    """Let what was found out about a model hold for a copy of its layers too."""
    if original.plain in _known:
        _known[copy.plain] = _known[original.plain]


def close(lm: LanguageModel, found: Tensor, expected: Tensor) -> bool:
    """Return whether logits of a packed forward equal the model's own, up to the rounding of its precision."""
    centred = expected.float() - expected.float().mean(dim=-1, keepdim=True)
    error = (found.float() - expected.float()).square().mean().sqrt() / centred.square().mean().sqrt()
    return bool(error <= _TOLERANCE.get(lm.dtype, _TOLERANCE_HALF))


def tiny_inputs(lm: LanguageModel) -> list[list[int]]:
    """Return a few token sequences to try a model with, of 5, 3, 2 and 4 tokens."""
    known = lm.plain.get_input_embeddings().num_embeddings
    return [[(7 * i + k) % known for i in range(k)] for k in (5, 3, 2, 4)]


def _plain_layers(config: Any) -> bool:
    """Return whether every layer attends to all that came before (tiny inputs could not tell)."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    implementation = text._attn_implementation  # noqa: SLF001 - transformers has no public name for it
    return kinds == {"full_attention"} and implementation == ATTENTION and not getattr(text, "attention_chunk_size", 0)


def _agrees(lm: LanguageModel) -> bool:
    """Return whether the logits after every path of a tiny forest are those of reading the paths one by one."""
    first, left, right, other = tiny_inputs(lm)
    forest = [Segment(first, [Segment(left), Segment(right)]), Segment(other, [Segment(left)])]
    hidden, layout = packed_hidden(lm, forest, ends)
    if layout.reads != lm.plain.config.get_text_config().num_hidden_layers:
        return False  # some layer mixes tokens by other means
    paths = [first + left, first + right, other + left]
    expected = [lm.model(torch.tensor([path], device=lm.device)).logits[0, -1] for path in paths]
    return close(lm, head(lm)(hidden), torch.stack(expected))
