"""log π(y|x) of a prompt's responses: what losses, reference values and KL are made of.

Responses come grouped by prompt, and the prompt is read once for all of them, without padding. A model that cannot
share it exactly (`packs`) reads each response as one row of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rso_core.errors import UserError
from rso_core.generation import decoder_start_id, pad_left, positions
from rso_core.models import LanguageModel
from rso_core.packed_forward import head, packed_hidden, packs
from rso_core.packed_layout import Segment
from rso_core.seq2seq_forward import decoder_hidden, decoder_packs
from rso_core.token_log_probs import token_log_probs

Ids = tuple[int, ...]
Row = tuple[Ids, Ids]  # a prompt and one response
Tree = tuple[Ids, list[Ids]]  # a prompt and its responses


@dataclass(frozen=True)
class Group:
    """A prompt and its responses, as token ids."""

    prompt_ids: list[int]
    responses: list[list[int]]


def response_log_probs(lm: LanguageModel, groups: Sequence[Group], *, batch_size: int) -> list[Tensor]:
    """Return log π(y|x), summed over the response's tokens (EOS included, never averaged), one float32 [K] a group.

    At most `batch_size` responses go through the model at once; the same response of a prompt goes through it once.
    Gradients flow when they are enabled. Raises UserError for an empty prompt or response, and for one beyond the
    model's context.
    """
    rows = [(group.prompt_ids, response) for group in groups for response in group.responses]
    _check(lm, rows)
    shared = shares_prompts(lm)
    found: dict[Row, Tensor] = {}
    for part in _parts(groups, batch_size):
        values = _shared_log_probs(lm, part) if shared else _plain_log_probs(lm, part)
        keys = [(prompt, response) for prompt, responses in part for response in responses]
        found |= zip(keys, values.unbind(), strict=True)
    return [_stacked(lm, [found[tuple(group.prompt_ids), tuple(ids)] for ids in group.responses]) for group in groups]


def _stacked(lm: LanguageModel, values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)) if values else torch.zeros(0, device=lm.device)


def _parts(groups: Sequence[Group], batch_size: int) -> Iterator[list[Tree]]:
    """Yield distinct responses by prompt, at most `batch_size` responses at a time."""
    distinct: dict[Ids, dict[Ids, None]] = {}
    for group in groups:
        distinct.setdefault(tuple(group.prompt_ids), {}).update(dict.fromkeys(map(tuple, group.responses)))
    rows = [(prompt, response) for prompt, responses in distinct.items() for response in responses]
    for start in range(0, len(rows), batch_size):
        part: dict[Ids, list[Ids]] = {}
        for prompt, response in rows[start : start + batch_size]:
            part.setdefault(prompt, []).append(response)
        yield list(part.items())


def _check(lm: LanguageModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    for prompt, response in rows:
        if not prompt or not response:
            message = f"log π(y|x) needs a prompt and a response of at least one token, got {len(prompt)} and {len(response)}; remove the row"
            raise UserError(message)
        if lm.context_limit is not None and len(prompt) + len(response) > lm.context_limit:
            message = (
                f"a prompt of {len(prompt)} and a response of {len(response)} tokens exceed the model's context of "
                f"{lm.context_limit}; lower data.max_prompt_tokens or data.max_response_tokens"
            )
            raise UserError(message)


def shares_prompts(lm: LanguageModel) -> bool:
    """Return whether a prompt is read once for all of its responses: where that is exact, and no dropout is drawn."""
    return packs(lm) if lm.family == "causal" else decoder_packs(lm)


def _shared_log_probs(lm: LanguageModel, trees: Sequence[Tree]) -> Tensor:
    """Return log π of every response; each prompt is read once, logits are made at the responses' tokens only."""
    responses = [response for _, of_prompt in trees for response in of_prompt]
    if lm.family == "causal":
        forest = [Segment(prompt, [Segment(ids) for ids in found]) for prompt, found in trees]
        hidden, _ = packed_hidden(lm, forest, lambda layout: layout.predicting_tokens(layout.leaves))
    else:
        hidden = decoder_hidden(lm, trees)
    targets = torch.tensor([token for response in responses for token in response], device=lm.device)
    lengths = torch.tensor([len(response) for response in responses], device=lm.device)
    owners = torch.arange(len(responses), device=lm.device).repeat_interleave(lengths)
    values = token_log_probs(hidden, head(lm), targets).double()
    return values.new_zeros(len(responses)).index_add(0, owners, values).float()


def _plain_log_probs(lm: LanguageModel, trees: Sequence[Tree]) -> Tensor:
    """Return the same, every response a row of its own behind its prompt: for models that cannot share it."""
    return _batch_log_probs(lm, [(prompt, response) for prompt, responses in trees for response in responses])


def response_logits(lm: LanguageModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Return the logits [rows, T, vocabulary] that predict each token of each row's response, and the mask [rows, T].

    A row is a prompt and a response; T is the longest response.
    """
    targets, target_mask = pad_right([response for _, response in rows], lm.pad_id, lm.device)
    prompts = [prompt for prompt, _ in rows]
    if lm.family == "causal":
        return _causal_logits(lm, prompts, targets, target_mask), target_mask
    return _seq2seq_logits(lm, prompts, targets), target_mask


def _batch_log_probs(lm: LanguageModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
    logits, target_mask = response_logits(lm, rows)
    targets, _ = pad_right([response for _, response in rows], lm.pad_id, lm.device)
    token_log_probs = -torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    # `where`, not a product: a padded position must not pass a NaN or a gradient.
    return torch.where(target_mask.bool(), token_log_probs, 0.0).sum(dim=1)


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the right and their mask, both [batch, longest]."""
    width = max(len(ids) for ids in sequences)
    padded = [list(ids) + [pad_id] * (width - len(ids)) for ids in sequences]
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def _causal_logits(lm: LanguageModel, prompts: Sequence[Sequence[int]], targets: Tensor, target_mask: Tensor) -> Tensor:
    """Return the logits [rows, T, vocabulary] that predict `targets` [rows, T].

    Prompts are padded on the left and responses on the right, so that the responses of all rows start at one
    column: the output layer then computes logits for the last T + 1 columns only, whatever the architecture.
    """
    left, left_mask = pad_left(prompts, lm.pad_id, lm.device)
    mask = torch.cat([left_mask, target_mask], dim=1)
    output = lm.model(
        input_ids=torch.cat([left, targets], dim=1),
        attention_mask=mask,
        position_ids=positions(mask),
        logits_to_keep=targets.shape[1] + 1,
        use_cache=False,
    )
    logits: Tensor = output.logits[:, :-1]
    return logits


def _seq2seq_logits(lm: LanguageModel, prompts: Sequence[Sequence[int]], targets: Tensor) -> Tensor:
    """Return the logits [rows, T, vocabulary] that predict `targets`; each distinct prompt is encoded once."""
    distinct = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    row_of = {prompt: row for row, prompt in enumerate(distinct)}
    rows = torch.tensor([row_of[tuple(prompt)] for prompt in prompts], device=lm.device)
    inputs, mask = pad_right(distinct, lm.pad_id, lm.device)
    encoded = lm.plain.get_encoder()(input_ids=inputs, attention_mask=mask).last_hidden_state
    start = torch.full_like(targets[:, :1], decoder_start_id(lm))
    output = lm.model(
        encoder_outputs=(encoded[rows],),
        attention_mask=mask[rows],
        decoder_input_ids=torch.cat([start, targets[:, :-1]], dim=1),
        use_cache=False,
    )
    logits: Tensor = output.logits
    return logits
