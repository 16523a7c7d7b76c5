"""Supervised fine-tuning: cross-entropy of the target given the prompt. RAFT and ReST fit the policy by it too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from rso_core.grouped_forward import Group, response_log_probs
from rso_core.micro_batches import Sizes
from rso_core.policy_training import at_snapshots
from rso_core.protocol import Event
from rso_core.token_rows import TokenRows
from rso_core.training import BatchLoss, Drawn, Objective, train

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

Example = tuple[list[int], list[int]]  # prompt ids, target ids with end-of-sequence


@dataclass(frozen=True, eq=False)
class Examples(Sequence[Example]):
    """Prompts and their targets over flat token ids; an example is made when a batch reads it."""

    prompts: TokenRows
    targets: TokenRows

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return list(zip(self.prompts[index], self.targets[index], strict=True))
        return self.prompts[index], self.targets[index]


def train_sft(
    lm: "LanguageModel",
    examples: Sequence[Example],
    training: Mapping[str, Any],
    *,
    seed: int,
    checkpoint_dir: Path,
    attempt: int,
    emit: Callable[[Event], None],
) -> dict[str, Any]:
    """Fine-tune `lm` in place into π_sft and return what `training.train` returns.

    The loss is −log π(target | prompt) over target tokens including end-of-sequence, its mean over the tokens of
    the batch.
    """
    objective = _objective(examples, "sft")
    return train(lm, objective, training, seed=seed, checkpoint_dir=checkpoint_dir, attempt=attempt, emit=emit)


def fit_on_targets(  # noqa: PLR0913 - as every training, plus snapshots
    lm: "LanguageModel",
    examples: Sequence[Example],
    training: Mapping[str, Any],
    *,
    seed: int,
    checkpoint_dir: Path,
    attempt: int,
    emit: Callable[[Event], None],
    save_snapshot: Callable[[int], None],
) -> dict[str, Any]:
    """Fit π_θ by cross-entropy on chosen candidates (RAFT, ReST) and return what `training.train` returns.

    `training` is the JSON of a FittingConfig; snapshots are those of `policy_training.fit_policy`.
    """
    after_step = at_snapshots(len(examples), training, save_snapshot)
    objective = replace(_objective(examples, "fitting"), after_step=after_step)
    return train(lm, objective, training, seed=seed, checkpoint_dir=checkpoint_dir, attempt=attempt, emit=emit)


def _objective(examples: Sequence[Example], section: str) -> Objective[Example]:
    return Objective[Example](
        section=section,
        items=examples,
        loss=sft_loss,
        weight=lambda example: len(example[1]),
        sizes=Sizes(_lengths(examples)),
    )


def _lengths(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Return the tokens of each example."""
    if isinstance(examples, Examples):
        return examples.prompts.lengths + examples.targets.lengths
    return np.array([len(prompt) + len(target) for prompt, target in examples])


def sft_loss(lm: "LanguageModel", batch: Sequence[Drawn[Example]]) -> BatchLoss:
    """Return the cross-entropy of a few examples, summed over target tokens."""
    groups = [Group(prompt_ids=drawn.item[0], responses=[drawn.item[1]]) for drawn in batch]
    log_probs = response_log_probs(lm, groups, batch_size=len(groups))
    tokens = sum(len(drawn.item[0]) + len(drawn.item[1]) for drawn in batch)
    return BatchLoss(total=-sum(values.sum() for values in log_probs), tokens=tokens)  # type: ignore[arg-type]
