"""How inputs of the reward-ranking model go through it, up to the logits of the token that answers.

Only the last position of an input goes through the output embedding, and that in float32: logits near 16 are 0.125
apart in bfloat16, so that one comparison in ten would be an exact tie.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rso_core.generation import decoder_start_id, pad_left, positions
from rso_core.gradient_sinks import Sink, sink_of
from rso_core.grouped_forward import pad_right
from rso_core.packed_forward import ends, head, packed_hidden, packs
from rso_core.prefix_tree import Ids, forest_of
from rso_core.templates import label_ids

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

_VOCABULARY_AT_ONCE = 8192


def label_logits(lm: "LanguageModel", sequences: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Return logit P(A) and the mass outside A and B, both [sequences] in float32, without gradient.

    A decoder-only model reads once what neighbours begin with (see `forest_of`). No [sequences, vocabulary] tensor is
    made there: the outside mass is summed over parts of the vocabulary.
    """
    with torch.no_grad():
        both = list(label_ids(lm.tokenizer, lm.family))
        if packs(lm):
            last, layer = _last_hidden(lm, sequences), head(lm)
            labels, everything = _float32_output(layer, last, both), _log_sum_exp(layer, last)
        else:
            logits = _padded_logits(lm, [ids.tolist() for ids in sequences])
            labels, everything = logits[:, both], logits.logsumexp(dim=1)
        inside = (labels.logsumexp(dim=1) - everything).exp()
        return labels[:, 0] - labels[:, 1], 1 - inside


def vocabulary_logits(lm: "LanguageModel", sequences: Sequence[Ids]) -> Tensor:
    """Return the logits, [sequences, vocabulary] in float32, of the token after each input; gradients flow."""
    if not packs(lm):
        return _padded_logits(lm, [ids.tolist() for ids in sequences])
    layer = head(lm)
    logits: Tensor = _VocabularyLogits.apply(_last_hidden(lm, sequences), layer.weight, sink_of(layer.weight))  # type: ignore[no-untyped-call]
    return logits if layer.bias is None else logits + layer.bias.float()


def _last_hidden(lm: "LanguageModel", sequences: Sequence[Ids]) -> Tensor:
    """Return the hidden state [sequences, width] of each sequence's last token, in float32; nothing is padded."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].tobytes())  # what begins alike stands together
    hidden, _ = packed_hidden(lm, forest_of([sequences[i] for i in order]), ends)
    return hidden[torch.tensor(order, device=lm.device).argsort()].float()


def _float32_output(layer: Any, hidden: Tensor, tokens: slice | list[int] = slice(None)) -> Tensor:
    """Return the logits, of all tokens or of some, of float32 states."""
    bias = None if layer.bias is None else layer.bias[tokens].float()
    return torch.nn.functional.linear(hidden, layer.weight[tokens].float(), bias)


class _VocabularyLogits(torch.autograd.Function):
    """hidden Wᵀ in float32, with no float32 copy of W; its gradient goes to its sink where it has one."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, sink: Sink | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.sink = sink
        found = [hidden @ part.float().T for part in torch.split(weight, _VOCABULARY_AT_ONCE)]
        return torch.cat(found, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        if of_hidden is not None:
            pieces = (torch.split(part, _VOCABULARY_AT_ONCE, dim=dim) for part, dim in ((gradient, 1), (weight, 0)))
            for slopes, part in zip(*pieces, strict=True):
                of_hidden += slopes @ part.float()
        if not ctx.needs_input_grad[1]:
            return of_hidden, None, None
        if ctx.sink is None:
            return of_hidden, (gradient.T @ hidden).to(weight.dtype), None
        with ctx.sink.adding() as total:
            total.addmm_(gradient.T, hidden)
        return of_hidden, None, None


def _log_sum_exp(layer: Any, hidden: Tensor) -> Tensor:
    """Return log Σ exp(logit) over the vocabulary, [rows]."""
    starts = range(0, len(layer.weight), _VOCABULARY_AT_ONCE)
    slices = (slice(start, start + _VOCABULARY_AT_ONCE) for start in starts)
    return torch.stack([_float32_output(layer, hidden, part).logsumexp(dim=1) for part in slices]).logsumexp(dim=0)


def _padded_logits(lm: "LanguageModel", sequences: Sequence[list[int]]) -> Tensor:
    """Return the next-token logits [sequences, vocabulary] in float32 of padded inputs.

    Decoder-only inputs are padded on the left, so that their last tokens line up; T5's are padded on the right and
    answered at the decoder's first position.
    """
    with _output_in_float32(lm):
        if lm.family == "causal":
            ids, mask = pad_left(sequences, lm.pad_id, lm.device)
            places = positions(mask)
            output = lm.model(
                input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1
            )
        else:
            ids, mask = pad_right(sequences, lm.pad_id, lm.device)
            start = torch.full_like(ids[:, :1], decoder_start_id(lm))
            output = lm.model(input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=False)
    logits: Tensor = output.logits[:, -1].float()
    return logits


@contextmanager
def _output_in_float32(lm: "LanguageModel") -> Iterator[None]:
    """Let the output embedding compute in float32, in place of its own precision."""
    layer: Any = head(lm)
    if layer.weight.dtype == torch.float32:
        yield
        return
    before = vars(layer).get("forward")
    layer.forward = lambda hidden: _float32_output(layer, hidden.float())
    try:
        yield
    finally:
        if before is None:
            del layer.forward  # the class's own is seen again
        else:
            layer.forward = before
