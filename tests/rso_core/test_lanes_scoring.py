"""Comparisons side by side: the same scores, in order, whoever is ahead."""

import itertools
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from rso_core import lanes, reward_ranking
from rso_core.lanes import lanes_to_read, side_by_side
from rso_core.models import LanguageModel, load
from rso_core.reward_ranking import Pool, rewards
from tests.rso_core.comparisons import CONTEXT, READ
from tests.rso_core.toys import toy_model


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(toy_model(tmp_path_factory.mktemp("toy"), "causal"))


def in_lanes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_ranking, "lanes_to_read", lambda *_args, **_options: count)


def test_a_listener_who_goes_ends_the_lanes() -> None:
    before, threads = threading.active_count(), torch.get_num_threads()
    found = side_by_side([itertools.count, itertools.count])
    assert next(found) == [0, 0]
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_scores_do_not_depend_on_the_lanes(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, count: int, batch_size: int
) -> None:
    pools = [
        Pool(
            CONTEXT, [f"the {colour} {thing}" for colour in ("red", "blue", "old") for thing in ("tree", "house")], base
        )
        for base in ("the cat", "a dog")
    ]
    told: list[int] = []

    def score() -> list[Any]:
        told.clear()
        options: dict[str, Any] = {"order_average": True, "batch_size": batch_size, **READ}
        return rewards(lm, pools, on_progress=lambda units, _tokens: told.append(units), **options)

    expected = score()
    in_lanes(count, monkeypatch)
    for found, wanted in zip(score(), expected, strict=True):
        assert found.rewards == pytest.approx(wanted.rewards, abs=1e-4)
        assert found.outside_mass == pytest.approx(wanted.outside_mass, abs=1e-5)
    assert sum(told) == 12


def test_what_ended_is_left_out_and_the_rest_goes_on() -> None:
    works = [partial(iter, "abc"), partial(iter, ""), partial(iter, "x")]
    assert list(side_by_side(works)) == [["a", "x"], ["b"], ["c"]]


def test_an_error_is_raised_and_ends_the_others() -> None:
    reached = []

    def failing() -> Iterator[int]:
        yield 1
        message = "not this one"
        raise ValueError(message)

    def endless() -> Iterator[int]:
        for number in itertools.count():
            reached.append(number)
            time.sleep(1e-3)
            yield number

    found = side_by_side([endless, failing])
    assert next(found) == [0, 1]
    with pytest.raises(ValueError, match="not this one"):
        next(found)
    ended = len(reached)
    time.sleep(0.02)
    assert len(reached) == ended


def test_small_passes_and_little_work_are_not_worth_a_lane(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(parameter.numel() for parameter in lm.model.parameters())
    monkeypatch.setattr(lanes, "threads_here", lambda: 8)
    assert lanes_to_read(lm, 1e9, together=100) == 1
    monkeypatch.setattr(lanes, "WORTH_AT_ONCE", 2.0 * size * 100)
    monkeypatch.setattr(lanes, "WORTH", 2.0 * size * 1000)
    assert [lanes_to_read(lm, tokens, together=100) for tokens in (100, 2999, 3000, 1e9)] == [1, 2, 3, 4]
    assert lanes_to_read(lm, 1e9, together=99) == 1
