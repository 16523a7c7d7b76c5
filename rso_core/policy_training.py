"""Fit the policy π_θ on preference pairs with one of the paper's losses (eq. 8-10).

A pair is a row with `prompt_id`, `prompt_token_ids`, `chosen_token_ids`, `rejected_token_ids` and, where the loss
compares with π_sft, `reference_chosen` and `reference_rejected`: log π_sft of the two responses. For `slic` with a
regulariser (eq. 1) it has `target_token_ids` too, the response y_ref. The pairs of a
prompt stay together, so that a forward pass reads the prompt and each distinct response once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rso_core.artifacts import Row
from rso_core.data_order import num_steps
from rso_core.errors import UserError
from rso_core.grouped_forward import Group, response_log_probs, shares_prompts
from rso_core.losses import LOSSES, NEEDS_REFERENCE, slic_loss
from rso_core.micro_batches import Sizes
from rso_core.protocol import Event
from rso_core.token_pairs import TokenPairs
from rso_core.training import BatchLoss, Objective, train

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rso_core.models import LanguageModel

# While π_θ is still π_sft every log-ratio is 0, so these losses have one value.
LOSS_AT_START = {"sigmoid_norm": math.log(2), "hinge_norm": 1.0}
_SIDES = ("chosen_token_ids", "rejected_token_ids")
_TOLERANCE_FLOAT32 = 1e-4
_TOLERANCE_BFLOAT16 = {"sigmoid_norm": 0.02, "hinge_norm": 0.05}


def fit_policy(  # noqa: PLR0913 - as every training, plus snapshots
    lm: "LanguageModel",
    pairs: Sequence[Row],
    training: Mapping[str, Any],
    *,
    seed: int,
    checkpoint_dir: Path,
    attempt: int,
    emit: Callable[[Event], None],
    save_snapshot: Callable[[int], None],
) -> dict[str, Any]:
    """Fit `lm` in place and return what `training.train` returns.

    `training` is the JSON of a FittingConfig. `save_snapshot(step)` is called at `num_checkpoints` evenly spaced
    steps, before the checkpoint of that step exists, so that a resumed fit has them all. Raises UserError when the
    first loss is not what it must be while π_θ = π_sft.
    """
    objective = Objective[Row](
        section="fitting",
        items=pairs,
        loss=lambda lm, batch: pair_loss(lm, [drawn.item for drawn in batch], training),
        sizes=_sizes(pairs, shared=shares_prompts(lm) and not training["dropout"]),
        check_first=lambda values: _check_start(values["loss"], training, lm.dtype),
        after_step=at_snapshots(len(pairs), training, save_snapshot),
    )
    return train(lm, objective, training, seed=seed, checkpoint_dir=checkpoint_dir, attempt=attempt, emit=emit)


def _sizes(pairs: Sequence[Row], *, shared: bool) -> Sizes:
    """Return the tokens of pairs: a prompt is read once for all of its pairs (`shared`), or once for each response."""
    blocks: ArrayLike
    if isinstance(pairs, TokenPairs):
        prompts, blocks = pairs.prompts.lengths, pairs.blocks
        responses = pairs.chosen.lengths + pairs.rejected.lengths
    else:
        prompts = np.array([len(pair["prompt_token_ids"]) for pair in pairs])
        responses = np.array([len(pair["chosen_token_ids"]) + len(pair["rejected_token_ids"]) for pair in pairs])
        blocks = [pair["prompt_id"] for pair in pairs]
    return Sizes(responses, prompts, blocks) if shared else Sizes(responses + 2 * prompts, None, blocks)


def at_snapshots(
    count: int, training: Mapping[str, Any], save_snapshot: Callable[[int], None]
) -> Callable[[int], None]:
    """Return what a fit on `count` items does after a step: at `num_checkpoints` evenly spaced ones, save a snapshot."""
    steps = snapshot_steps(num_steps(count, training), training["num_checkpoints"])
    return lambda step: save_snapshot(step) if step in steps else None


def snapshot_steps(total: int, count: int) -> set[int]:
    """Return `count` evenly spaced steps, the last one among them (fewer when there are fewer steps)."""
    return {max(1, round(total * k / count)) for k in range(1, count + 1)}


def pair_loss(lm: "LanguageModel", pairs: Sequence[Row], training: Mapping[str, Any]) -> BatchLoss:
    """Return the loss of pairs, summed over them, with the sums of what is worth watching."""
    name, gamma = training["loss"], training["gamma"]
    regularized = name == "slic" and training["regularizer"] > 0
    found, tokens = _log_probs(lm, pairs, _SIDES + ("target_token_ids",) * regularized)
    chosen, rejected = found[0], found[1]
    references = _references(pairs, chosen.device)
    if references is None and name in NEEDS_REFERENCE:
        message = f"the loss {name} needs log π_sft of both responses of every pair"
        raise ValueError(message)
    compared = (chosen, rejected)
    if references is not None:
        compared = (chosen - references[0], rejected - references[1])
    if name == "slic":
        delta = training["delta"] or 1 / gamma
        target = found[2] if regularized else torch.zeros_like(chosen)
        losses = slic_loss(chosen, rejected, target, delta=delta, regularizer=training["regularizer"])
    else:
        losses = LOSSES[name](*(compared if name in NEEDS_REFERENCE else (chosen, rejected)), gamma=gamma)
    margin = gamma * (compared[0] - compared[1]).detach()
    sums = {
        "margin": float(margin.sum()),
        "accuracy": float(((margin > 0) + 0.5 * (margin == 0)).sum()),
        "chosen_log_prob": float(chosen.detach().sum()),
        "rejected_log_prob": float(rejected.detach().sum()),
    }
    if regularized:
        sums["target_log_prob"] = float(found[2].detach().sum())
    if references is not None:
        sums["chosen_log_ratio"] = float(compared[0].detach().sum())
        sums["rejected_log_ratio"] = float(compared[1].detach().sum())
    return BatchLoss(total=losses.sum(), sums=sums, tokens=tokens)


def _log_probs(lm: "LanguageModel", pairs: Sequence[Row], sides: Sequence[str]) -> tuple[list[Tensor], int]:
    """Return log π_θ of the responses in each of the columns `sides`, all [pairs], and the tokens read."""
    responses: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    for pair in pairs:
        of_prompt = responses.setdefault(tuple(pair["prompt_token_ids"]), {})
        for side in sides:
            of_prompt.setdefault(tuple(pair[side]), len(of_prompt))
    groups = [Group(list(prompt), [list(ids) for ids in found]) for prompt, found in responses.items()]
    values = response_log_probs(lm, groups, batch_size=sum(len(group.responses) for group in groups))
    of_group = dict(zip(responses, values, strict=True))

    def of_side(name: str) -> Tensor:
        prompts = [tuple(pair["prompt_token_ids"]) for pair in pairs]
        return torch.stack(
            [of_group[p][responses[p][tuple(pair[name])]] for p, pair in zip(prompts, pairs, strict=True)]
        )

    tokens = sum(len(group.prompt_ids) + sum(map(len, group.responses)) for group in groups)
    return [of_side(side) for side in sides], tokens


def _references(pairs: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Return log π_sft of chosen and rejected responses, both [pairs]; None when a pair has none."""
    columns = [[pair.get(name) for pair in pairs] for name in ("reference_chosen", "reference_rejected")]
    if any(value is None for column in columns for value in column):
        return None
    chosen, rejected = (torch.tensor(column, dtype=torch.float32, device=device) for column in columns)
    return chosen, rejected


def _check_start(loss: float, training: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Refuse a fit whose policy is not the reference it is compared with (dropout off)."""
    name = training["loss"]
    if name not in LOSS_AT_START or training["dropout"] > 0:
        return
    tolerance = _TOLERANCE_FLOAT32 if dtype == torch.float32 else _TOLERANCE_BFLOAT16[name]
    if abs(loss - LOSS_AT_START[name]) > tolerance:
        message = (
            f"before its first step the policy is π_sft, so the loss {name} must be {LOSS_AT_START[name]:.4f} ± {tolerance:g}, "
            f"got {loss:.4f}: the reference log-probs were computed with other weights, another tokenizer or another "
            f"dtype. Delete them and run the stage reference_log_probs again; if it stays, use model.dtype float32"
        )
        raise UserError(message)
