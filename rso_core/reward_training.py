"""Training of the reward-ranking model ρ_ψ on human pairs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rso_core.artifacts import Row
from rso_core.errors import UserError
from rso_core.packed_forward import packs
from rso_core.protocol import Event, Log
from rso_core.reward_logits import vocabulary_logits
from rso_core.reward_pairs import HumanPair, is_flipped, read_pairs, sizes_of
from rso_core.reward_ranking import Reader
from rso_core.templates import label_ids
from rso_core.training import BatchLoss, Drawn, Objective, train
from rso_core.vocabulary import Task

if TYPE_CHECKING:
    from rso_core.models import LanguageModel


def train_reward(  # noqa: PLR0913 - as every training, plus how comparisons are read
    lm: "LanguageModel",
    rows: Sequence[Row],
    training: Mapping[str, Any],
    *,
    seed: int,
    checkpoint_dir: Path,
    attempt: int,
    emit: Callable[[Event], None],
    task: Task,
    max_length: int,
) -> dict[str, Any]:
    """Train `lm` in place on D_hf and return what `training.train` returns, with the rows left out and kept.

    The loss is the cross-entropy of the label over the full vocabulary, which keeps the mass outside the labels
    small; its mean over pairs. Pairs with one context stay together, and a decoder-only model reads it once for those
    of a forward pass. Raises UserError when no row fits into `max_length` tokens.
    """
    reader = Reader(lm, task, max_length)
    read = read_pairs(reader, rows)
    if not read.pairs:
        message = (
            f"no human pair is left to train the reward model on: all {len(rows)} have responses that do not fit into "
            f"{max_length} tokens; raise reward.max_length"
        )
        raise UserError(message)
    if read.excluded_rows:
        text = f"{read.excluded_rows} of {len(rows)} human pairs do not fit into {max_length} tokens and are left out"
        emit(Log(level="warning", message=text))
    objective = Objective[HumanPair](
        section="reward",
        items=read.pairs,
        loss=lambda lm, batch: _label_loss(lm, batch, seed),
        sizes=sizes_of(read.pairs, shared=packs(lm)),
    )
    result = train(lm, objective, training, seed=seed, checkpoint_dir=checkpoint_dir, attempt=attempt, emit=emit)
    counts = {name: value for name, value in vars(read).items() if name != "pairs"}
    return {"pairs": len(read.pairs), **counts, **result}


def _label_loss(lm: "LanguageModel", batch: Sequence[Drawn[HumanPair]], seed: int) -> BatchLoss:
    """Return −log P(label) summed over pairs, each shown in the order its coin says."""
    flips = [is_flipped(seed, drawn.item.number, drawn.epoch) for drawn in batch]
    inputs = [drawn.item.shown(flip) for drawn, flip in zip(batch, flips, strict=True)]
    sequences = [np.frombuffer(ids, dtype=np.int32) for ids in inputs]
    log_probs = vocabulary_logits(lm, sequences).log_softmax(dim=1)
    both = log_probs[:, list(label_ids(lm.tokenizer, lm.family))]
    winner = torch.tensor(flips, dtype=torch.long, device=both.device)[:, None]
    of_winner = both.gather(1, winner)
    margin = (of_winner - both.gather(1, 1 - winner)).detach()
    return BatchLoss(
        total=-of_winner.sum(),
        sums={
            "accuracy": float(((margin > 0) + 0.5 * (margin == 0)).sum()),
            "margin": float(margin.sum()),
            "outside_mass": float((1 - both.detach().exp().sum(dim=1)).sum()),
        },
        tokens=sum(map(len, sequences)),
    )
