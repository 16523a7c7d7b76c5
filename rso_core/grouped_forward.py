"""log π(y|x) of a prompt's responses: what losses, reference values and KL are made of.

Responses come grouped by prompt. Here each response is one row of a batch; a faster forward pass that reads
the prompt once for all of its responses can replace the inside without changing the interface.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rso_core.errors import UserError
from rso_core.generation import decoder_start_id, pad_left, positions
from rso_core.models import LanguageModel


@dataclass(frozen=True)
class Group:
    """A prompt and its responses, as token ids."""

    prompt_ids: list[int]
    responses: list[list[int]]


def response_log_probs(lm: LanguageModel, groups: Sequence[Group], *, batch_size: int) -> list[Tensor]:
    """Return log π(y|x), summed over the response's tokens (EOS included, never averaged), one float32 [K] a group.

    At most `batch_size` responses go through the model at once. Gradients flow when they are enabled.
    Raises UserError for an empty prompt or response, and for one beyond the model's context.
    """
    rows = [(group.prompt_ids, response) for group in groups for response in group.responses]
    _check(lm, rows)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    found = [_batch_log_probs(lm, batch) for batch in batches]
    values = torch.cat(found) if found else torch.zeros(0, device=lm.device)
    return list(torch.split(values, [len(group.responses) for group in groups]))


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


def _batch_log_probs(lm: LanguageModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
    targets, target_mask = pad_right([response for _, response in rows], lm.pad_id, lm.device)
    prompts = [prompt for prompt, _ in rows]
    if lm.family == "causal":
        logits = _causal_logits(lm, prompts, targets, target_mask)
    else:
        logits = _seq2seq_logits(lm, prompts, targets)
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
