import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rso_core import batch_memory, memory
from rso_core.batch_memory import BatchMemory
from rso_core.config import TrainingConfig
from rso_core.errors import OutOfMemoryError, UserError
from rso_core.micro_batches import Budget, Sizes
from rso_core.models import LanguageModel, load
from rso_core.protocol import Event, Log
from tests.rso_core.toys import toy_model

MOST = batch_memory.MOST_TOKENS["cpu"]
SIZES = Sizes([100] * 64, [200] * 64, [i // 4 for i in range(64)])  # 4 pairs of a prompt: 600 tokens
BATCH = [(i, 0) for i in range(32)]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(toy_model(tmp_path_factory.mktemp("toy"), "causal"))


class Machine:
    """A machine with so much free memory, on which a token takes a byte and what is always there takes `fixed`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, free: float, fixed: float = 0, limit: float = float("inf")
    ) -> None:
        self.tried: list[int] = []
        self.checkpointed: LanguageModel | None = None  # the model whose checkpointing it takes
        self.free, self.fixed, self.limit = int(free), fixed, limit
        monkeypatch.setattr(memory, "free_bytes", lambda _device: self.free)
        monkeypatch.setattr(memory.Meter, "peak", lambda _meter, work: self.peak(work))

    def peak(self, work: Callable[[], None]) -> float:
        work()
        return self.fixed + self.tried[-1]

    def attempt(self, items: Sequence[int]) -> None:
        self.tried.append(SIZES.together(items))
        if self.tried[-1] > self.limit or (
            self.checkpointed and not self.checkpointed.plain.is_activation_checkpointing
        ):
            raise MemoryError


def batches(
    lm: LanguageModel, folder: Path, emit: Callable[[Event], None] = lambda _: None, **changes: Any
) -> BatchMemory:
    settings = TrainingConfig(**({"batch_size": 32} | changes)).model_dump(mode="json")
    return BatchMemory(lm, settings, SIZES, folder, emit)


def budget(made: BatchMemory, step: int = 0) -> Budget:
    return made._follow(step).budget


@pytest.mark.parametrize(
    ("free", "fixed", "tokens"),
    [(1e9, 0, MOST), (1e9, 5e8, MOST), (2000, 0, 1024), (1000, 0, 512), (650, 0, 512), (10_000, 7_000, 512)],
)
def test_the_most_tokens_that_free_memory_holds_go_through_at_once(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, fixed: float, tokens: int
) -> None:
    machine = Machine(monkeypatch, free, fixed)
    made = batches(lm, tmp_path)
    made.prepare(0, machine.attempt, fixed=int(fixed), reserved=0)

    assert budget(made) == Budget(tokens=tokens)
    assert machine.tried[0] <= 512  # the smallest first
    (lane,) = made.cut(BATCH, 0)
    assert all(len(part) == 1 or SIZES.together([i for i, _ in part]) <= tokens for part in lane)


def test_what_the_optimizer_will_take_is_not_free(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batches(lm, tmp_path)
    made.prepare(0, Machine(monkeypatch, 5000).attempt, fixed=0, reserved=4000)

    assert budget(made) == Budget(tokens=512)


def test_an_attempt_that_runs_out_of_memory_leaves_half_of_it(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batches(lm, tmp_path)
    made.prepare(0, Machine(monkeypatch, 1e9, limit=1000).attempt, fixed=0, reserved=0)

    assert budget(made) == Budget(tokens=1024)


def test_a_longest_item_that_does_not_fit_turns_checkpointing_on_and_is_an_error_with_advice_after_that(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, 1e9, limit=100)
    with pytest.raises(OutOfMemoryError, match=r"one item of 300 tokens at once.*micro_batch_size"):
        batches(lm, tmp_path).prepare(0, machine.attempt, fixed=0, reserved=0)
    assert len(machine.tried) == 2  # without, and with checkpointing

    other = Machine(monkeypatch, 1e9)
    other.checkpointed = lm
    made = batches(lm, tmp_path)
    made.prepare(0, other.attempt, fixed=0, reserved=0)
    assert (budget(made).tokens, lm.plain.is_activation_checkpointing, lm.model.training) == (MOST, True, True)
    made.end()
    assert not lm.plain.is_activation_checkpointing


def test_checkpointing_that_is_off_stays_off(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, 1e9, limit=100)
    with pytest.raises(OutOfMemoryError):
        batches(lm, tmp_path, gradient_checkpointing="off").prepare(0, machine.attempt, fixed=0, reserved=0)
    assert len(machine.tried) == 1


def test_other_errors_of_an_attempt_are_not_swallowed(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, 1e9)

    def broken(_items: Sequence[int]) -> None:
        raise RuntimeError("a matrix is singular")  # noqa: EM101 - a made-up error

    with pytest.raises(RuntimeError, match="singular"):
        batches(lm, tmp_path).prepare(0, broken, fixed=0, reserved=0)


def test_a_size_that_is_set_is_not_tried(lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1e9)
    made = batches(lm, tmp_path, micro_batch_size=8)
    made.prepare(0, machine.attempt, fixed=0, reserved=0)

    assert (budget(made), machine.tried) == (Budget(items=8), [])


def test_memory_that_runs_out_in_a_step_halves_what_goes_through_until_one_item_does(
    lm: LanguageModel, tmp_path: Path
) -> None:
    events: list[Event] = []
    made = batches(lm, tmp_path, events.append, micro_batch_size=4, gradient_checkpointing="off")
    made.prepare(0, lambda _: None, fixed=0, reserved=0)
    made.shrink(3, MemoryError())
    made.shrink(5, MemoryError())

    assert [budget(made, step).items for step in range(7)] == [4, 4, 4, 2, 2, 1, 1]
    assert [event.level for event in events if isinstance(event, Log)] == ["warning", "warning"]
    with pytest.raises(OutOfMemoryError, match="one item of 300 tokens at once"):
        made.shrink(5, MemoryError())


def test_a_training_that_goes_on_cuts_its_batches_as_before(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = batches(lm, tmp_path)
    first.prepare(0, Machine(monkeypatch, 1e9).attempt, fixed=0, reserved=0)
    first.shrink(4, MemoryError())
    machine = Machine(monkeypatch, 700)  # less is free now
    second = batches(lm, tmp_path)
    second.prepare(2, machine.attempt, fixed=0, reserved=0)

    assert machine.tried == []
    assert [budget(second, step).tokens for step in (2, 3, 4, 5)] == [MOST, MOST, MOST // 2, MOST // 2]
    assert json.loads((tmp_path / "micro_batches.json").read_text(encoding="utf-8"))[1]["step"] == 4


def test_a_model_that_cannot_checkpoint_says_so(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    lm.plain.supports_gradient_checkpointing = False

    with pytest.raises(UserError, match="set gradient_checkpointing to off"):
        batches(lm, tmp_path, micro_batch_size=1, gradient_checkpointing="on").prepare(
            0, lambda _: None, fixed=0, reserved=0
        )


def test_memory_that_the_system_refuses_is_found_out_before_the_first_step(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing: a pass of 512 tokens takes 100 MB, one of 1,024 takes not 200 MB but 400 MB, of 300 MB."""
    tried: list[int] = []

    def attempt(items: Sequence[int]) -> None:
        tried.append(SIZES.together(items))
        torch.ones(25_000_000 if tried[-1] <= 512 else 100_000_000).sum().item()

    monkeypatch.setattr(memory, "free_bytes", lambda _device: 300_000_000)
    made = batches(lm, tmp_path)
    made.prepare(0, attempt, fixed=0, reserved=0)

    assert budget(made) == Budget(tokens=512)
    assert max(tried) > 512


def test_several_lanes_need_memory_each_and_give_way_to_one(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_memory, "wanted_lanes", lambda *_args, **_options: 2)
    for free, found in ((2000, (2, 512)), (1000, (1, 512)), (1e9, (2, MOST))):
        made = batches(lm, tmp_path / "none")
        made._keep = lambda _cut: None  # type: ignore[method-assign]
        made.prepare(0, Machine(monkeypatch, free).attempt, fixed=0, reserved=0)
        cut = made._follow(0)
        assert (cut.lanes, cut.budget.tokens) == found
        by_lane = made.cut(BATCH, 0)
        assert len(by_lane) == found[0]
        assert len({len(lane) for lane in by_lane}) == 1  # nobody waits for a lane that has more


def test_memory_that_runs_out_in_two_lanes_leaves_one_and_the_same_pieces(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_memory, "wanted_lanes", lambda *_args, **_options: 2)
    events: list[Event] = []
    made = batches(lm, tmp_path, events.append, micro_batch_size=4)
    made.prepare(0, lambda _items: None, fixed=0, reserved=0)
    made.shrink(3, MemoryError())

    assert [(cut.step, cut.lanes, cut.budget.items) for cut in made._cuts] == [(0, 2, 4), (3, 1, 4)]
    again = batches(lm, tmp_path, micro_batch_size=4)  # a training that goes on
    assert [len(again.cut(BATCH, step)) for step in (2, 3)] == [2, 1]


def test_lanes_of_unequal_blocks_have_as_many_micro_batches(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_memory, "wanted_lanes", lambda *_args, **_options: 2)
    settings = TrainingConfig(micro_batch_size=2).model_dump(mode="json")
    made = BatchMemory(lm, settings, Sizes([9, 1, 1, 1, 1, 1]), tmp_path, lambda _event: None)
    made.prepare(0, lambda _items: None, fixed=0, reserved=0)

    assert [[len(part) for part in lane] for lane in made.cut([(i, 0) for i in range(6)], 0)] == [[1], [2, 2, 1]]
    assert [[len(part) for part in lane] for lane in made.cut([(i, 0) for i in (1, 2, 3, 4)], 0)] == [[2], [2]]
    assert made.cut([], 0) == []  # a process whose share of a batch is empty
