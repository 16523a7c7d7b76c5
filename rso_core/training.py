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

import numpy as np
import torch

from rso_core import memory, processes
from rso_core.batch_memory import BatchMemory
from rso_core.checkpoints import load_checkpoint, save_checkpoint
from rso_core.data_order import DataOrder, num_items, num_steps
from rso_core.errors import UserError
from rso_core.lanes import Lanes
from rso_core.micro_batches import Place, Sizes, shares
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

    section: part of the configuration that advice names. loss: gets the layers to read the items with. weight: share of
    an item in the step (tokens for a token mean). sizes: the tokens of each item, and which items share some (the pairs
    of a prompt) and stay together. check_first sees the values of step 1 before the weights change; after_step runs
    before the checkpoint of that step is written.
    """

    section: str
    items: Sequence[Item]
    loss: Callable[["LanguageModel", Sequence[Drawn[Item]]], BatchLoss]
    weight: Callable[[Item], float] = _one
    sizes: Sizes | None = None
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
        torch.manual_seed(seed + processes.rank())
        self._lm, self._objective, self._settings, self._emit = lm, objective, settings, emit
        self._sizes = objective.sizes or Sizes(np.ones(len(objective.items)))
        self._order = DataOrder(self._sizes.blocks, seed)
        self._total = num_steps(len(objective.items), settings)
        self._weights = Weights(lm.model, splits=settings["optimizer"] == "adafactor")
        self._lanes = Lanes(lm, self._weights)
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
        processes.gathered(None)  # all have read the checkpoint before anybody writes
        self._memory = BatchMemory(self._lm, self._settings, self._sizes, folder, self._emit)
        if self._position.step < self._total:
            self._memory.prepare(self._position.step, self._attempt, **self._weight_bytes())
        start, tokens_before = monotonic(), self._position.tokens
        self._resumed = self._position.step
        self._report(None)
        while self._position.step < self._total:
            self._step()
            self._keep(folder, attempt)
            self._report((self._position.tokens - tokens_before) / max(monotonic() - start, 1e-9))
        self._memory.end()
        self._lm.model.eval()
        if processes.rank():
            raise processes.TrainingFinished
        return self._position.summary()

    def _keep(self, folder: Path, attempt: int) -> None:
        """Leave what a step leaves behind: snapshots and the checkpoint. The first process writes."""
        step = self._position.step
        is_checkpoint = step % self._settings["checkpoint_every"] == 0 or step == self._total
        state = self._state() if is_checkpoint else None
        if processes.rank():
            return
        self._objective.after_step(step)
        if state is not None:
            save_checkpoint(folder, step, state, attempt=attempt)

    def _weight_bytes(self) -> dict[str, int]:
        """Return what a gradient takes, and the first step: AdamW keeps two moments, Adafactor makes one update."""
        sizes = [4 * master.numel() for master in self._weights.masters.values()]
        step = 2 * sum(sizes) if self._settings["optimizer"] == "adamw" else max(sizes, default=0)
        return {"fixed": sum(sizes), "reserved": step}

    def _attempt(self, items: Sequence[int]) -> None:
        """Compute a gradient of some items and forget it."""
        drawn = [Drawn(self._objective.items[index], 0) for index in items]
        try:
            with torch.random.fork_rng():
                self._objective.loss(self._lm, drawn).total.backward()  # type: ignore[no-untyped-call]
        finally:
            self._forget_gradients()

    def _forget_gradients(self) -> None:
        self._weights.begin()
        self._lm.model.zero_grad(set_to_none=True)  # of weights whose gradient the error kept from the masters

    def _report(self, rate: float | None) -> None:
        done, resumed = self._position.step, self._resumed
        self._emit(Progress(done=done, total=self._total, unit="steps", tokens_per_second=rate, resumed=resumed))

    def _batch(self) -> list[Place]:
        size = self._settings["batch_size"]
        start = self._position.step * size
        stop = min(start + size, num_items(len(self._objective.items), self._settings))
        return self._order.span(start, stop)

    def _step(self) -> None:
        values, tokens = self._gradient(self._batch())
        gradients = self._gradients()
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

    def _gradients(self) -> list[torch.Tensor]:
        """Return the gradients of the whole batch: those of several processes added up."""
        found = self._weights.gradients()
        if processes.count() == 1:
            return found
        found = []
        for master in self._weights.masters.values():
            master.grad = torch.zeros_like(master) if master.grad is None else master.grad
            found.append(master.grad)
        processes.add_up(found)
        return found

    def _gradient(self, batch: Sequence[Place]) -> tuple[dict[str, float], int]:
        """Leave the gradient of the batch in the masters, in smaller pieces each time that memory runs out."""
        random = _random_state()
        while True:
            self._forget_gradients()
            try:
                return self._accumulate(batch)
            except (RuntimeError, MemoryError, OSError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                self._memory.shrink(self._position.step, error)
            memory.release(self._lm.device)
            _set_random_state(random)

    def _accumulate(self, batch: Sequence[Place]) -> tuple[dict[str, float], int]:
        """Leave the gradient of the batch in the masters; return what to report and the number of tokens."""
        drawn = {place: Drawn(self._objective.items[place[0]], place[1]) for place in batch}
        weight = sum(self._objective.weight(one.item) for one in drawn.values())
        share = shares(batch, self._sizes, processes.count())[processes.rank()]

        def add_gradient(lm: "LanguageModel", places: Sequence[Place]) -> dict[str, float]:
            part = self._objective.loss(lm, [drawn[place] for place in places])
            scaled = part.total / weight
            loss = float(scaled.detach())
            self._refuse_non_finite({"loss": loss})
            scaled.backward()  # type: ignore[no-untyped-call]
            return part.sums | {"loss": loss, "tokens": part.tokens}

        sums = {"loss": 0.0, "tokens": 0.0}
        for found in self._lanes.run(self._memory.cut(share, self._position.step), add_gradient):
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
        sums = processes.total(sums)
        loss, tokens = sums.pop("loss"), int(sums.pop("tokens"))
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
            "weights": self._weights.values(),
            "optimizer": self._optimizer.inner.state_dict(),
            "random": processes.gathered(_random_state()),
            "position": vars(self._position),
        }

    def _resume(self, folder: Path) -> None:
        state = load_checkpoint(folder)
        if state is None:
            return
        self._weights.restore(state["weights"])
        self._optimizer.inner.load_state_dict(state["optimizer"])
        _set_random_state(state["random"][processes.rank() % len(state["random"])])
        self._position = _Position(**state["position"])
        self._emit(Log(message=f"resumed after step {self._position.step} of {self._total}"))


def _random_state() -> list[torch.Tensor]:
    """Return the state of every generator of torch: the CPU's, then those of the GPUs."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _set_random_state(state: Sequence[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])
