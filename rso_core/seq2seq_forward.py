"""The packed forward of the T5 family: each prompt is encoded once, no token is padded, keys and values are shared.

Prompts stand one after another in one row for the encoder, responses in another for the decoder. A response attends
to itself and to its own prompt, whose keys and values are computed once for all of its responses.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rso_core.attention import packing_mask
from rso_core.generation import decoder_start_id
from rso_core.gradient_sinks import embedded
from rso_core.models import LanguageModel
from rso_core.packed_attention import gather
from rso_core.packed_forward import close, head, tiny_inputs, trusted
from rso_core.packed_layout import Layout, Segment, pack

Spans = list[tuple[slice, slice]]


def decoder_hidden(lm: LanguageModel, groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> Tensor:
    """Return what the output embedding makes next-token logits of, for each token of each response: [tokens, width].

    A group is a prompt and its responses. Row t of a response predicts its token t.
    """
    plain, start = lm.plain, decoder_start_id(lm)
    prompts, prompt_layout = pack([Segment(prompt) for prompt, _ in groups], lm.device)
    inputs = [[start, *response[:-1]] for _, responses in groups for response in responses]
    tokens, layout = pack([Segment(ids) for ids in inputs], lm.device)
    encoded = _walk(plain.get_encoder(), prompts, _itself(prompt_layout, causal=False))
    across = packing_mask(partial(_attend_across, spans=_spans(groups, prompt_layout, layout)), lm.device)
    hidden = _walk(plain.get_decoder(), tokens, _itself(layout, causal=True), encoded, across)
    return hidden * plain.model_dim**-0.5 if plain.config.scale_decoder_outputs else hidden


def decoder_packs(lm: LanguageModel) -> bool:
    """Return whether `decoder_hidden` is exact for a model (T5 and mT5; UMT5 keeps a position bias in every layer)."""
    return lm.family == "seq2seq" and trusted(lm, _agrees)


def _agrees(lm: LanguageModel) -> bool:
    """Return whether the logits of tiny responses are those of the model reading each with its prompt."""
    first, left, right, other = tiny_inputs(lm)
    found = head(lm)(decoder_hidden(lm, [(first, [left, right]), (other, [left])]))
    expected = [
        lm.model(
            input_ids=torch.tensor([prompt], device=lm.device),
            decoder_input_ids=torch.tensor([[decoder_start_id(lm), *response[:-1]]], device=lm.device),
        ).logits[0]
        for prompt, response in ((first, left), (first, right), (other, left))
    ]
    return close(lm, found, torch.cat(expected))


def _spans(groups: Sequence[tuple[Any, Sequence[Any]]], prompts: Layout, responses: Layout) -> Spans:
    """Return, for each group, where its responses and its prompt stand."""
    found, first = [], 0
    for i, (_, of_prompt) in enumerate(groups):
        last = first + len(of_prompt) - 1
        found.append((slice(responses.starts[first], responses.ends[last]), slice(prompts.starts[i], prompts.ends[i])))
        first = last + 1
    return found


def _itself(layout: Layout, *, causal: bool) -> tuple[Tensor, int]:
    longest = max(end - start for start, end in zip(layout.starts, layout.ends, strict=True))
    return packing_mask(partial(_attend_itself, layout=layout, causal=causal), layout.device), longest


def _walk(
    stack: Any, ids: Tensor, itself: tuple[Tensor, int], encoded: Tensor | None = None, across: Tensor | None = None
) -> Tensor:
    """Return the last hidden states [tokens, width] of an encoder or a decoder.

    As the stack's own forward, but for its position bias: made for the longest sequence, not for the whole row.
    """
    mask, longest = itself
    bias = stack.block[0].layer[0].SelfAttention.compute_bias(longest, longest, device=ids.device)
    no_bias = bias.new_zeros(1, 1, 1, 1)
    hidden = stack.dropout(embedded(stack.embed_tokens, ids[None]))
    seen = None if encoded is None else encoded[None]
    for block in stack.block:
        hidden = block(hidden, mask, bias, seen, across, no_bias)[0]
    last: Tensor = stack.dropout(stack.final_layer_norm(hidden))[0]
    return last


def _attend_itself(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    layout: Layout,
    causal: bool,
    scaling: float | None,
    position_bias: Tensor,
) -> Tensor:
    """Return the attention of every sequence to itself, [1, tokens, heads, width].

    `position_bias` [1, heads, longest, longest] depends on distances only, so each sequence uses its upper corner.
    """
    pieces, places = [], []
    for span in layout.alone:
        bias = _bias(position_bias, span.stop - span.start, causal=causal)
        q, k, v = (part[:, :, span] for part in (query, key, value))
        pieces.append(scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scaling)[0].transpose(0, 1))
        places.append(torch.arange(span.start, span.stop, device=query.device))
    for rows in layout.together:
        bias = _bias(position_bias, rows.tokens.shape[1], causal=causal)
        if not causal:
            bias = bias.masked_fill(rows.padding[:, None, None, :], float("-inf"))
        q, k, v = (gather(part, rows) for part in (query, key, value))
        found = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scaling)
        pieces.append(found.transpose(1, 2).flatten(0, 1).index_select(0, rows.real))
        places.append(rows.targets)
    return torch.cat(pieces).index_select(0, torch.cat(places).argsort())[None]


def _bias(position_bias: Tensor, length: int, *, causal: bool) -> Tensor:
    bias = position_bias[:, :, :length, :length]
    if not causal:
        return bias
    later = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
    return bias.masked_fill(later, float("-inf"))


def _attend_across(
    query: Tensor, key: Tensor, value: Tensor, *, spans: Spans, scaling: float | None, position_bias: Tensor
) -> Tensor:
    """Return the attention of all responses of a prompt to that prompt, [1, tokens, heads, width]; there is no bias."""
    del position_bias
    found = [
        scaled_dot_product_attention(query[:, :, below], key[:, :, above], value[:, :, above], scale=scaling)
        for below, above in spans
    ]
    return torch.cat(found, dim=2).transpose(1, 2)
