"""The one training loop, of SFT, the reward-ranking model and policy fitting.

What differs between them is an `Objective`: the items, the loss of a few of them, and how they are weighted. The
gradient of a step is Σ loss / Σ weight over the whole batch, whatever the micro-batches are.

The optimizers are in `adafactor` and `trained_weights`: weights that are not float32 are trained through masters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from numpy.typing import ArrayLike

from rso_core.checkpoints import load_checkpoint, save_checkpoint
from rso_core.data_order import DataOrder, num_items, num_steps
from rso_core.errors import UserError
from rso_core.protocol import Event, Log, Metrics, Progress
from rso_core.trained_weights import Optimizer, Weights

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

Item = TypeVar("Item")
POINTS_OF_CURVE = 500
RECENT_STEPS = 20


@dataclass(frozen=True)
class Drawn(Generic[Item]):
    """An item as it comes up in training; `epoch` counts the passes from 0."""

    item: Item
    epoch: int


@dataclass
class BatchLoss:
    """The loss of some items: `total` is the sum over them (scalar, with gradient), `sums` are sums to report."""

    total: torch.Tensor
    sums: dict[str, float] = field(default_factory=dict)
    tokens: int = 0


def _one(_item: Any) -> float:
    return 1.0


def _nothing(_argument: Any) -> None:
    return None


@dataclass(frozen=True)
class Objective(Generic[Item]):
    """What is trained on and how it is judged.

    section: part of the configuration that advice names. weight: share of an item in the step (tokens for a token
    mean). length: items of a batch are sorted by it, so that micro-batches hold little padding. blocks: a value for
    each item; items with an equal one stay together (the pairs of a prompt). check_first sees the values of step 1 before the weights
    change; after_step runs before the checkpoint of that step is written.
    """

    section: str
    items: Sequence[Item]
    loss: Callable[[Sequence[Drawn[Item]]], BatchLoss]
    weight: Callable[[Item], float] = _one
    length: Callable[[Item], int] | None = None
    blocks: ArrayLike | None = None
    check_first: Callable[[dict[str, float]], None] = _nothing
    after_step: Callable[[int], None] = _nothing


@dataclass
class _Position:
    """How far a training is; part of each checkpoint."""

    step: int = 0
    tokens: int = 0
    first: dict[str, float] = field(default_factory=dict)
    recent: list[dict[str, float]] = field(default_factory=list)

    def advance(self, values: dict[str, float], tokens: int) -> None:
        self.step += 1
        self.tokens += tokens
        self.first = self.first or values
        self.recent = [*self.recent, values][-RECENT_STEPS:]

    def summary(self) -> dict[str, Any]:
        """Return the result: what was done, the values of the first step, the means of the last ones."""
        names = self.first if self.recent else {}
        means = {name: sum(v[name] for v in self.recent) / len(self.recent) for name in names}
        return {"steps": self.step, "tokens": self.tokens, "first": self.first, "last": means}


def train(
    lm: "LanguageModel",
    objective: Objective[Any],
    settings: Mapping[str, Any],
    *,
    seed: int,
    checkpoint_dir: Path,
    attempt: int,
    emit: Callable[[Event], None],
) -> dict[str, Any]:
    """Train `lm` in place and return steps, tokens, the first step's values and the means of the last 20.

    `settings` is the JSON of a TrainingConfig. Goes on from the newest checkpoint in `checkpoint_dir`; a training
    that was killed and resumed ends with the same bytes as one that was not. Raises UserError when the loss or the
    gradient is not finite, before the weights change.
    """
    return _Loop(lm, objective, settings, seed, emit).run(checkpoint_dir, attempt)


class _Loop:
    def __init__(
        self,
        lm: "LanguageModel",
        objective: Objective[Any],
        settings: Mapping[str, Any],
        seed: int,
        emit: Callable[[Event], None],
    ) -> None:
        torch.manual_seed(seed)
        self._lm, self._objective, self._settings, self._emit = lm, objective, settings, emit
        blocks = objective.blocks
        self._order = DataOrder(range(len(objective.items)) if blocks is None else blocks, seed)
        self._total = num_steps(len(objective.items), settings)
        self._weights = Weights(lm.model)
        self._optimizer = Optimizer(self._weights, settings)
        self._position = _Position()
        self._resumed = 0

    def run(self, folder: Path, attempt: int) -> dict[str, Any]:
        try:
            return self._run(folder, attempt)
        finally:
            self._weights.release()

    def _run(self, folder: Path, attempt: int) -> dict[str, Any]:
        self._resume(folder)
        self._lm.model.train(self._settings["dropout"] > 0)
        start, tokens_before = monotonic(), self._position.tokens
        self._resumed = self._position.step
        self._report(None)
        while self._position.step < self._total:
            self._step()
            step = self._position.step
            self._objective.after_step(step)
            if step % self._settings["checkpoint_every"] == 0 or step == self._total:
                save_checkpoint(folder, step, self._state(), attempt=attempt)
            self._report((self._position.tokens - tokens_before) / max(monotonic() - start, 1e-9))
        self._lm.model.eval()
        return self._position.summary()

    def _report(self, rate: float | None) -> None:
        done, resumed = self._position.step, self._resumed
        self._emit(Progress(done=done, total=self._total, unit="steps", tokens_per_second=rate, resumed=resumed))

    def _batch(self) -> list[Drawn[Any]]:
        size, items = self._settings["batch_size"], self._objective.items
        start = self._position.step * size
        stop = min(start + size, num_items(len(items), self._settings))
        batch = [Drawn(items[index], epoch) for index, epoch in self._order.span(start, stop)]
        length = self._objective.length
        return batch if length is None else sorted(batch, key=lambda drawn: length(drawn.item))

    def _step(self) -> None:
        batch = self._batch()
        self._weights.begin()
        values, tokens = self._accumulate(batch)
        gradients = self._weights.gradients()
        norm = torch.nn.utils.get_total_norm(gradients)
        values["gradient_norm"] = float(norm)
        self._refuse_non_finite(values)
        if self._position.step == 0:
            self._objective.check_first(values)
        if self._settings["max_gradient_norm"] > 0:
            limit = self._settings["max_gradient_norm"]
            torch.nn.utils.clip_grads_with_norm_(self._weights.masters.values(), limit, norm)
        self._optimizer.step()
        self._position.advance(values, tokens)
        self._plot(values)

    def _accumulate(self, batch: Sequence[Drawn[Any]]) -> tuple[dict[str, float], int]:
        """Leave the gradient of the batch in the masters; return what to report and the number of tokens."""
        weight = sum(self._objective.weight(drawn.item) for drawn in batch)
        sums: dict[str, float] = {}
        loss, tokens, size = 0.0, 0, self._settings["micro_batch_size"]
        for start in range(0, len(batch), size):
            part = self._objective.loss(batch[start : start + size])
            share = part.total / weight
            loss += float(share.detach())
            self._refuse_non_finite({"loss": loss})
            share.backward()  # type: ignore[no-untyped-call]
            tokens += part.tokens
            for name, value in part.sums.items():
                sums[name] = sums.get(name, 0.0) + value
        return {"loss": loss, **{name: value / len(batch) for name, value in sums.items()}}, tokens

    def _refuse_non_finite(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                section = self._objective.section
                message = (
                    f"the {name.replace('_', ' ')} of step {self._position.step + 1} is {value}; it must be finite. Nothing "
                    f"was changed by this step. Lower {section}.learning_rate (now {self._settings['learning_rate']:g}), set "
                    f"{section}.max_gradient_norm to 1, or use model.dtype float32"
                )
                raise UserError(message)

    def _plot(self, values: dict[str, float]) -> None:
        step, total = self._position.step, self._total
        if step % max(1, total // POINTS_OF_CURVE) == 0 or step in {1, total}:
            self._emit(Metrics(step=step, values=values))

    def _state(self) -> dict[str, Any]:
        return {
            "weights": {name: master.detach() for name, master in self._weights.masters.items()},
            "optimizer": self._optimizer.inner.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "position": vars(self._position),
        }

    def _resume(self, folder: Path) -> None:
        state = load_checkpoint(folder)
        if state is None:
            return
        self._weights.restore(state["weights"])
        self._optimizer.inner.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self._position = _Position(**state["position"])
        self._emit(Log(message=f"resumed after step {self._position.step} of {self._total}"))
