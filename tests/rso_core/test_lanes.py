"""Micro-batches side by side: the same gradient, in the same order of additions, and errors that end all of them."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rso_core import lanes
from rso_core.errors import UserError
from rso_core.lanes import Lanes, LaneStoppedError, Turns, wanted_lanes
from rso_core.models import LanguageModel, add_lora, load
from rso_core.protocol import Event, Log
from rso_core.sft import sft_loss
from rso_core.trained_weights import Weights
from rso_core.training import BatchLoss
from rso_core.vocabulary import Family
from tests.rso_core.test_training import FAMILIES, Killed, differing, run, weights
from tests.rso_core.toys import toy_model


@pytest.fixture(autouse=True)
def two_lanes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let toy models be worth two lanes, whatever threads there are."""
    before = torch.get_num_threads()
    monkeypatch.setattr(lanes, "WORTH", 1.0)
    monkeypatch.setattr(lanes, "threads_here", lambda: 2)
    yield
    torch.set_num_threads(before)


def in_threads(work: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads), "lanes wait for each other"


def added(turns: Turns, visits: list[list[list[str]]], seed: int) -> dict[str, list[tuple[int, int]]]:
    """Return in which order (round, lane) lanes added to sums; `visits` are the names by lane and round."""
    found: dict[str, list[tuple[int, int]]] = {}

    def lane(number: int) -> None:
        rng = random.Random(f"{seed} {number}")  # noqa: S311 - no secret
        for place, names in enumerate(visits[number]):
            for at, name in enumerate(names):
                time.sleep(rng.random() * 2e-3)
                with turns.turn(number, name, name not in names[at + 1 :] and name != "tied"):
                    found.setdefault(name, []).append((place, number))
            turns.end_round(number, final=place == len(visits[number]) - 1)

    in_threads([lambda number=number: lane(number) for number in range(len(visits))])  # type: ignore[misc]
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [2, 3, 4])
def test_sums_are_added_to_in_one_order_whatever_lane_is_ahead(count: int, seed: int) -> None:
    """A tied embedding is added to first and last; the other weights once, in between."""
    rounds = [3 - (lane == count - 1) for lane in range(count)]  # the last lane has less to do
    names = ["tied", "b", "a", "tied"]
    found = added(Turns(count), [[names] * number for number in rounds], seed)

    once = [(place, lane) for place in range(3) for lane in range(count) if place < rounds[lane]]
    of_tied = [(place, lane) for place in range(3) for _ in range(2) for lane in range(count) if place < rounds[lane]]
    assert found == {"tied": of_tied, "b": once, "a": once}


def test_lanes_that_would_wait_for_each_other_go_on_in_one_order() -> None:
    visits = [[["a", "a", "b"], ["b", "a"]], [["b", "a"], ["a", "a", "b"]]]
    orders = [added(Turns(2), visits, seed) for seed in range(12)]

    assert sum(len(order) for order in orders[0].values()) == 10
    assert all(order == orders[0] for order in orders)


def test_nobody_waits_for_a_lane_that_failed() -> None:
    turns, stopped = Turns(2), []

    def second() -> None:
        with pytest.raises(LaneStoppedError), turns.turn(1, "a", last=True):
            pass
        stopped.append(True)

    in_threads([second, turns.fail])
    assert stopped == [True]


def trained(folder: Path, into: Path, monkeypatch: pytest.MonkeyPatch, count: int, **changes: Any) -> dict[str, Any]:
    monkeypatch.setattr(lanes, "MOST_LANES", count)
    lm = load(folder, dtype=changes.pop("dtype", "float32"))
    lm = add_lora(lm, rank=2, alpha=4, seed=1) if changes.pop("lora", False) else lm
    run(lm, into, **{"micro_batch_size": 1, "max_steps": 2, "optimizer": "adamw", "learning_rate": 1e-4} | changes)
    return weights(lm)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_two_lanes_train_as_one(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch, *, lora: bool, checkpointing: str
) -> None:
    folder = toy_model(tmp_path / "toy", family)
    options: dict[str, Any] = {"lora": lora, "gradient_checkpointing": checkpointing}
    one, two = (trained(folder, tmp_path / f"{n}", monkeypatch, n, **options) for n in (1, 2))

    assert lora or differing(one, weights(load(folder)))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=2e-6, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_two_lanes_are_those_of_one_by_one(tmp_path: Path, family: Family, dtype: str) -> None:
    lm = load(toy_model(tmp_path / "toy", family), dtype=dtype)
    made = Weights(lm.model)
    batches = [[Item(k, k + 3)] for k in range(5)]

    def gradients(work: list[list[Any]]) -> list[torch.Tensor]:
        made.begin()
        Lanes(lm, made).run(work, add_gradient)
        return [gradient.clone() for gradient in made.gradients()]

    plain = gradients([batches])
    beside = gradients([batches[:3], batches[3:]])
    for expected, found in zip(plain, beside, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert [torch.equal(a, b) for a, b in zip(beside, gradients([batches[:3], batches[3:]]), strict=True)].count(
        False
    ) == 0


class Item:
    """An example as a training draws it."""

    def __init__(self, *tokens: int) -> None:
        self.item, self.epoch = ([5, *tokens], [*reversed(tokens), 1]), 0


def add_gradient(lm: LanguageModel, batch: Any) -> float:
    part: BatchLoss = sft_loss(lm, batch)
    part.total.backward()  # type: ignore[no-untyped-call]
    return float(part.total.detach())


def late(lm: LanguageModel, batch: Any) -> BatchLoss:
    """Let lanes get ahead of each other, otherwise each time."""
    time.sleep(random.random() * 4e-3)  # noqa: S311 - no secret
    return sft_loss(lm, batch)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_killed_training_in_two_lanes_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, family: Family, dtype: str
) -> None:
    folder = toy_model(tmp_path / "toy", family)

    def die(step: int) -> None:
        if step == 3:
            raise Killed

    whole, killed, resumed = (load(folder, dtype=dtype) for _ in range(3))
    options: dict[str, Any] = {"loss": late, "micro_batch_size": 1}
    expected = run(whole, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        run(killed, tmp_path / "killed", after_step=die, **options)
    assert run(resumed, tmp_path / "killed", **options) == expected
    assert differing(weights(whole), weights(resumed)) == []


def test_an_error_in_a_lane_is_the_step_s_and_its_gradients_are_forgotten(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    before, calls, third = weights(lm), set(), itertools.count(-2)

    def loss(lm: LanguageModel, batch: Any) -> BatchLoss:
        calls.add(threading.current_thread().name)
        found = sft_loss(lm, batch)
        return BatchLoss(found.total * (1.0 if next(third) else float("nan")), tokens=found.tokens)

    with pytest.raises(UserError, match="the loss of step 1 is nan"):
        run(lm, tmp_path / "run", loss=loss, micro_batch_size=1)
    assert len(calls) == 2
    assert differing(before, weights(lm)) == []
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_memory_that_runs_out_in_a_lane_leaves_one_lane_that_trains_as_if_there_had_been_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toy_model(tmp_path / "toy", "causal")
    events: list[Event] = []

    def scarce(lm: LanguageModel, batch: Any) -> BatchLoss:
        if threading.current_thread().name.startswith("lane"):
            raise MemoryError
        return sft_loss(lm, batch)

    found = load(folder)
    run(found, tmp_path / "run", loss=scarce, emit=events.append)
    told = [event.message for event in events if isinstance(event, Log)]
    assert told == ["memory ran out in step 1; micro-batches of at most 2 items from here on"]

    monkeypatch.setattr(lanes, "MOST_LANES", 1)
    alone = load(folder)
    run(alone, tmp_path / "alone")
    assert differing(weights(found), weights(alone)) == []


def test_lanes_are_for_several_threads_and_enough_work_without_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    size = sum(parameter.numel() for parameter in lm.model.parameters())
    assert wanted_lanes(lm, 100, dropout=0.0) == 2
    assert wanted_lanes(lm, 100, dropout=0.1) == 1
    monkeypatch.setattr(lanes, "WORTH", 6.0 * size * 50)
    assert [wanted_lanes(lm, tokens, dropout=0.0) for tokens in (0, 99, 100, 1e9)] == [1, 1, 2, 2]
    monkeypatch.setattr(lanes, "threads_here", lambda: 1)
    assert wanted_lanes(lm, 1e9, dropout=0.0) == 1


def test_as_many_threads_compute_afterwards_as_before() -> None:
    lm = load_nothing()
    before = torch.get_num_threads()
    found = Lanes(lm, Weights(lm.model)).run([[1, 3], [2]], lambda _lm, piece: (piece, torch.get_num_threads()))
    assert found == [(1, 1), (2, 1), (3, 1)]
    assert torch.get_num_threads() == before


def load_nothing() -> LanguageModel:
    return LanguageModel(torch.nn.Linear(2, 2), None, "causal")
