"""How large the micro-batches of a training are: as set, or found by trying the longest ones before the first step.

Found: the tokens of one forward and backward pass, the most out of MOST_TOKENS and its halves that free memory holds
with a margin, once for every lane (`lanes`). It is not the most that fits, so that machines with memory enough find the
same and train to the same bytes. When memory runs out all the same, one lane is left, then what goes through at once is
halved, and the step done again; a single item that does not fit turns gradient checkpointing on, or else is an error
with advice.

What holds from which step on is kept in a file beside the checkpoints: a training that goes on cuts its batches as
it would have done, whatever memory is free by then.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rso_core import memory, processes
from rso_core.errors import OutOfMemoryError, UserError
from rso_core.lanes import wanted_lanes
from rso_core.micro_batches import Budget, Place, Sizes, micro_batches, shares
from rso_core.protocol import Event, Log

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

MOST_TOKENS = {"cpu": 2048, "cuda": 16384}
SHARE = 0.8  # of the free memory that a micro-batch may take


@dataclass(frozen=True)
class Cut:
    """How batches are cut from a step on."""

    step: int
    budget: Budget
    checkpointing: bool
    lanes: int = 1


class BatchMemory:
    """Cuts the batches of one training. `settings` is the JSON of a TrainingConfig, `folder` that of the checkpoints."""

    def __init__(
        self,
        lm: "LanguageModel",
        settings: Mapping[str, Any],
        sizes: Sizes,
        folder: Path,
        emit: Callable[[Event], None],
    ) -> None:
        self._lm, self._settings, self._sizes, self._emit = lm, settings, sizes, emit
        self._file = folder / (f"micro_batches-{rank}.json" if (rank := processes.rank()) else "micro_batches.json")
        self._cuts = _read(self._file)
        self._fixed = 0

    def prepare(self, step: int, attempt: Callable[[Sequence[int]], None], *, fixed: int, reserved: int) -> None:
        """Find out how batches are cut, unless that is known; `attempt` computes the gradient of some items.

        fixed: bytes of the gradient, whatever items it is of. reserved: bytes that others will take later (the
        optimizer). Raises OutOfMemoryError when not even the longest item fits.
        """
        self._fixed = fixed
        if not self._cuts:
            size, wanted = self._settings["micro_batch_size"], self._settings["gradient_checkpointing"]
            self._cuts = [Cut(step, Budget(items=size), wanted == "on", self._lanes())]
            if not size:
                on_cpu = self._lm.device.type == "cpu"  # several processes share its memory
                free = memory.free_bytes(self._lm.device) // (processes.count() if on_cpu else 1)
                self._find(attempt, max(0, free - reserved))
            self._keep(self._cuts[0])
        self._follow(step)

    def _lanes(self) -> int:
        tokens = self._settings["batch_size"] * float(self._sizes.lengths.mean()) / processes.count()
        return wanted_lanes(self._lm, tokens, dropout=self._settings["dropout"])

    def cut(self, batch: Sequence[Place], step: int) -> list[list[list[Place]]]:
        """Return the micro-batches of a step's batch, by lane; lanes add in turn, so all have as many where blocks allow it."""
        now = self._follow(step)
        parts = [part for part in shares(batch, self._sizes, now.lanes) if part]
        found = [micro_batches(part, self._sizes, now.budget) for part in parts]
        rounds = max(map(len, found), default=0)
        return [
            lane if len(lane) == rounds else micro_batches(part, self._sizes, now.budget, at_least=rounds)
            for lane, part in zip(found, parts, strict=True)
        ]

    def shrink(self, step: int, error: BaseException) -> None:
        """Halve what goes through at once from this step on. Raises OutOfMemoryError when nothing is left to halve."""
        now = self._follow(step)
        if now.lanes > 1:
            found = replace(now, step=step, lanes=1)
        elif now.budget.items != 1 and not 0 < now.budget.tokens <= self._sizes.longest_item:
            found = replace(now, step=step, budget=now.budget.halved())
        elif self._may_checkpoint(now):
            found = replace(now, step=step, checkpointing=True)
        else:
            raise self._too_large(error) from error
        self._emit(Log(level="warning", message=f"memory ran out in step {step + 1}; {_described(found)} from here on"))
        self._keep(found)

    def end(self) -> None:
        """Leave the model as it was."""
        _checkpoint(self._lm, on=False)

    def _find(self, attempt: Callable[[Sequence[int]], None], free: int) -> None:
        """Try the longest micro-batches, at first without checkpointing."""
        start = self._cuts[0]
        try:
            found = self._tried(start, attempt, free)
        except (RuntimeError, MemoryError, OSError) as error:
            if not memory.is_out_of_memory(error):
                raise
            if not self._may_shrink(start):
                raise self._too_large(error) from error
            found = None
        if found is None:
            self._cuts = [replace(start, lanes=1) if start.lanes > 1 else replace(start, checkpointing=True)]
            self._find(attempt, free)
            return
        self._cuts = [found]
        self._emit(Log(message=f"{_described(found)}; {free / 1e9:.1f} GB are free"))

    def _tried(self, start: Cut, attempt: Callable[[Sequence[int]], None], free: int) -> Cut | None:
        """Return what fits, or None when the longest item takes more than its share and something else would help."""
        _checkpoint(self._lm, on=start.checkpointing)
        self._follow(start.step)
        device = self._lm.device
        meter, count = memory.Meter(device), self._settings["batch_size"]
        rungs = _rungs(self._sizes, count, MOST_TOKENS[device.type])
        tokens, peak = 0, 0.0
        while rungs:
            within = [r for r in rungs if tokens and self._fixed + (peak - self._fixed) * r / tokens <= SHARE * free]
            if tokens and not within:
                break
            following = within[-1] if tokens else rungs[0]
            grown = self._growth(following, meter, attempt, free, must=not tokens)
            if grown > SHARE * free and tokens:
                rungs = [rung for rung in rungs if rung < following]
                continue
            if grown > SHARE * free and self._may_shrink(start):
                return None
            tokens, peak, rungs = following, grown, [rung for rung in rungs if rung > following]
        return replace(start, budget=Budget(tokens=tokens))

    def _growth(
        self, tokens: int, meter: memory.Meter, attempt: Callable[[Sequence[int]], None], free: int, *, must: bool
    ) -> float:
        """Return by how much memory grows in a full micro-batch of every lane; infinite when it ran out, unless it `must` fit."""
        items = self._sizes.longest(Budget(tokens=tokens), self._settings["batch_size"])
        try:
            with memory.limited_to(free, self._lm.device):
                grown = meter.peak(lambda: attempt(items))
        except (RuntimeError, MemoryError, OSError) as error:
            if must or not memory.is_out_of_memory(error):
                raise
            memory.release(self._lm.device)
            return float("inf")
        missing = tokens / self._sizes.together(items) if len(items) < self._settings["batch_size"] else 1.0
        return self._fixed + max(0, grown - self._fixed) * max(1.0, missing) * self._cuts[0].lanes

    def _may_shrink(self, now: Cut) -> bool:
        """Return whether a single item could take less memory."""
        return now.lanes > 1 or self._may_checkpoint(now)

    def _may_checkpoint(self, now: Cut) -> bool:
        able = getattr(self._lm.plain, "supports_gradient_checkpointing", False)
        return self._settings["gradient_checkpointing"] == "auto" and not now.checkpointing and able

    def _too_large(self, error: BaseException) -> OutOfMemoryError:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"memory ran out with one item of {self._sizes.longest_item} tokens at once: {first}. {memory.ADVICE}"
        return OutOfMemoryError(message)

    def _follow(self, step: int) -> Cut:
        """Return what holds in a step, with the model switched to it."""
        found = next(cut for cut in reversed(self._cuts) if cut.step <= step or cut is self._cuts[0])
        _checkpoint(self._lm, on=found.checkpointing)
        # The layers checkpoint in training mode only; that alone changes nothing while every dropout is 0.
        self._lm.model.train(self._settings["dropout"] > 0 or found.checkpointing)
        return found

    def _keep(self, found: Cut) -> None:
        self._cuts = [*(cut for cut in self._cuts if cut.step < found.step), found]
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(cut) for cut in self._cuts]), encoding="utf-8")
        partial.rename(self._file)


def _read(file: Path) -> list[Cut]:
    if not file.exists():
        return []
    entries = json.loads(file.read_text(encoding="utf-8"))
    return [Cut(**entry | {"budget": Budget(**entry["budget"])}) for entry in entries]


def _rungs(sizes: Sizes, count: int, most: int) -> list[int]:
    """Return the token budgets to choose from, ascending: from what holds the longest item to what holds any batch."""
    everything = sizes.together(sizes.longest(Budget(), count))
    found = [most]
    while found[0] // 2 >= sizes.longest_item:
        found.insert(0, found[0] // 2)
    return [rung for place, rung in enumerate(found) if place == 0 or found[place - 1] < everything]


def _described(cut: Cut) -> str:
    size = f"{cut.budget.tokens:,} tokens" if cut.budget.tokens else f"{cut.budget.items:,} items"
    lanes = f", {cut.lanes} side by side" if cut.lanes > 1 else ""
    return f"micro-batches of at most {size}{lanes}" + (", with gradient checkpointing" if cut.checkpointing else "")


def _checkpoint(lm: "LanguageModel", *, on: bool) -> None:
    """Let layers keep their inputs only and compute the rest again in the backward pass, or not."""
    if on == lm.is_checkpointed:
        return
    if not on:
        lm.plain.activation_checkpointing_disable()
        return
    if not lm.plain.supports_gradient_checkpointing:
        message = f"{type(lm.plain).__name__} cannot checkpoint gradients; set gradient_checkpointing to off"
        raise UserError(message)
    lm.plain.activation_checkpointing_enable({"use_reentrant": False})
