import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rso_core.artifacts import Row
from rso_core.config import RewardConfig
from rso_core.data_order import DataOrder
from rso_core.errors import UserError
from rso_core.models import LanguageModel, load
from rso_core.protocol import Event, Log, Metrics
from rso_core.reward_accuracy import calibration, heldout_accuracy
from rso_core.reward_pairs import HumanPair, is_flipped, read_pairs, sizes_of
from rso_core.reward_ranking import Reader
from rso_core.reward_training import train_reward
from tests.rso_core.chain import dataset_row, texts
from tests.rso_core.comparisons import CONTEXT, FAMILIES, READ, human_rows, logit, probabilities
from tests.rso_core.toys import toy_model


@pytest.fixture(params=FAMILIES)
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    return load(toy_model(tmp_path / "toy", request.param))


def train_on(lm: LanguageModel, rows: list[Row], folder: Path, **changes: Any) -> tuple[dict[str, Any], list[Event]]:
    values = {"learning_rate": 0.02, "batch_size": 16, "micro_batch_size": 16, "epochs": 20} | changes
    training = RewardConfig(**values).model_dump(mode="json")
    events: list[Event] = []
    (folder / "run").mkdir()
    result = train_reward(
        lm, rows, training, seed=0, checkpoint_dir=folder / "run", attempt=1, emit=events.append, **READ
    )
    return result, events


def measure(lm: LanguageModel, rows: list[Row], *, order_average: bool = True) -> dict[str, Any]:
    return heldout_accuracy(
        lm, rows, order_average=order_average, batch_size=32, seed=0, on_progress=lambda *_: None, **READ
    )


def test_a_model_learns_what_people_prefer(tmp_path: Path) -> None:
    """People prefer the response that begins with "good" to the one that begins with "bad"."""
    lm = load(toy_model(tmp_path / "toy", "causal"))
    rows = [
        dataset_row(i, f"post {i} {CONTEXT}", chosen=f"good {text}", rejected=f"bad {other}")
        for i, (text, other) in enumerate(zip(texts(96, 2, seed=1), texts(96, 2, seed=2), strict=True), 1)
    ]
    result, events = train_on(lm, rows[:64], tmp_path)
    found = measure(lm, rows[64:])

    assert found["accuracy"]["value"] > 0.9
    assert found["accuracy"]["low"] > 0.7
    assert found["heldout_outside_mass"] < 0.05
    assert result["first"]["outside_mass"] > result["last"]["outside_mass"]
    assert set(next(event for event in events if isinstance(event, Metrics)).values) == {
        "loss", "gradient_norm", "accuracy", "margin", "outside_mass",
    }  # fmt: skip


def test_the_first_loss_is_the_cross_entropy_of_the_shown_label(lm: LanguageModel, tmp_path: Path) -> None:
    rows = human_rows(16, lambda first, second: first < second)
    total, right = 0.0, 0
    for number, row in enumerate(rows):
        flip = is_flipped(0, number, 0)
        shown = (row["rejected"], row["chosen"]) if flip else (row["chosen"], row["rejected"])
        in_favour = probabilities(lm, row["prompt"], *shown)
        total -= math.log(in_favour[flip])
        right += in_favour[flip] > in_favour[not flip]

    result, _ = train_on(lm, rows, tmp_path, max_steps=1)

    assert result["first"]["loss"] == pytest.approx(total / 16, abs=1e-4)
    assert result["first"]["accuracy"] == right / 16


def test_pairs_with_one_context_are_a_block_that_is_read_once() -> None:
    sequences = {(context, name): array("i", [context] * 40 + [ord(name)] * 3) for context in (1, 2) for name in "ab"}
    pairs = [
        HumanPair(number, block, sequences[context, "a"], sequences[context, "b"])
        for number, (context, block) in enumerate([(1, 0), (2, 1), (1, 0), (1, 0)])
    ]
    sizes = sizes_of(pairs, shared=True)
    assert sizes.together([0, 2, 3, 1]) == 40 + 3 * 3 + 43
    assert sizes_of(pairs, shared=False).together([0, 2, 3, 1]) == 4 * 43
    for found in (sizes, sizes_of(pairs, shared=False)):
        seen = [index for index, _ in DataOrder(found.blocks, seed=3).span(0, 8)]
        assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3]
        assert max(seen[:4].index(i) for i in (0, 2, 3)) - min(seen[:4].index(i) for i in (0, 2, 3)) == 2


def test_a_context_cut_to_different_lengths_is_not_shared() -> None:
    pairs = [
        HumanPair(0, 0, array("i", [1, 2, 3, 4, 5]), array("i", [1, 2, 3, 5, 4])),
        HumanPair(1, 0, array("i", [2, 3, 6, 7]), array("i", [2, 3, 7, 6])),
    ]
    assert sizes_of(pairs, shared=True).together([0, 1]) == 9


def test_contexts_of_several_pairs_are_found_in_the_rows_and_change_no_gradient(
    lm: LanguageModel, tmp_path: Path
) -> None:
    rows = [row | {"prompt": f"{row['prompt']} {i % 5}"} for i, row in enumerate(human_rows(16, lambda a, b: a < b))]
    read = read_pairs(Reader(lm, READ["task"], READ["max_length"]), rows)
    assert [pair.block for pair in read.pairs] == [i % 5 for i in range(16)]

    norms = []
    for size in (16, 1):
        (tmp_path / str(size)).mkdir()
        result, _ = train_on(lm, rows, tmp_path / str(size), max_steps=1, micro_batch_size=size, learning_rate=1e-12)
        norms.append(result["first"]["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_flips_are_fair_and_change_from_pass_to_pass() -> None:
    flips = [[is_flipped(3, number, epoch) for number in range(2000)] for epoch in (0, 1)]

    assert all(900 < sum(one) < 1100 for one in flips)
    assert 900 < sum(a != b for a, b in zip(*flips, strict=True)) < 1100


def test_pairs_that_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    rows = human_rows(8, lambda first, second: first < second)
    rows[2]["chosen"] = "good " * 80
    rows[4]["prompt"] = "cat " * 80
    rows[5]["prompt"] = "the [CONTEXT] cat"

    result, events = train_on(lm, rows, tmp_path, max_steps=1)

    counts = ("pairs", "excluded_rows", "truncated_contexts", "escaped_markers")
    assert [result[name] for name in counts] == [7, 1, 1, 1]
    assert any(isinstance(event, Log) and "1 of 8 human pairs do not fit" in event.message for event in events)
    found = measure(lm, rows)
    assert (found["heldout_pairs"], found["heldout_excluded_rows"]) == (7, 1)
    with pytest.raises(UserError, match=r"all 1 have responses that do not fit.*raise reward\.max_length"):
        train_on(lm, [rows[2]], tmp_path / "uploads")


@pytest.mark.parametrize("order_average", [True, False])
def test_heldout_figures_are_those_of_the_pairs_one_by_one(lm: LanguageModel, order_average: bool) -> None:  # noqa: FBT001
    rows = human_rows(24, lambda first, second: first < second)
    rows[0]["chosen"] = "good"
    won, first_wins, flips = 0.0, 0.0, 0
    for number, row in enumerate(rows):
        margins = [
            logit(lm, row["chosen"], row["rejected"], row["prompt"]),
            -logit(lm, row["rejected"], row["chosen"], row["prompt"]),
        ]
        flipped = is_flipped(0, number, 0)
        won += (sum(margins) / 2 if order_average else margins[flipped]) > 0
        first_wins += not flipped
        flips += (margins[0] > 0) != (margins[1] > 0)
    longer = sum(
        1.0 if len(row["chosen"]) > len(row["rejected"]) else 0.5 * (len(row["chosen"]) == len(row["rejected"]))
        for row in rows
    )

    found = measure(lm, rows, order_average=order_average)

    assert found["accuracy"]["value"] == pytest.approx(won / 24)
    assert found["longer_wins"]["value"] == pytest.approx(longer / 24)
    assert found["first_shown_wins"]["value"] == pytest.approx(first_wins / 24)
    assert found["order_flips"] == pytest.approx(flips / 24)
    assert found["accuracy"]["n"] == 24
    assert found["accuracy"]["low"] <= found["accuracy"]["value"] <= found["accuracy"]["high"]


def test_without_heldout_pairs_there_is_no_accuracy(lm: LanguageModel) -> None:
    assert measure(lm, []) == {
        "heldout_pairs": 0, "heldout_excluded_rows": 0, "accuracy": None, "longer_wins": None, "first_shown_wins": None,
        "calibration": [],
    }  # fmt: skip


def test_the_calibration_curve_is_the_share_of_right_answers_among_pairs_of_like_confidence() -> None:
    margin = np.array([3.0, -0.1, 0.2, -2.0, 0.3, 1.0] * 10)
    confidence = 1 / (1 + np.exp(-np.abs(margin)))

    found = calibration(margin, [f"root {i}" for i in range(60)], seed=0)

    assert [item["accuracy"]["n"] for item in found] == [20, 20, 20]
    assert [item["accuracy"]["value"] for item in found] == pytest.approx([0.5, 1.0, 0.5])
    assert [item["confidence"] for item in found] == pytest.approx(np.sort(confidence).reshape(3, 20).mean(axis=1))
    assert all(item["accuracy"]["low"] <= item["accuracy"]["value"] <= item["accuracy"]["high"] for item in found)


def test_a_calibrated_model_lies_on_the_diagonal_and_one_twice_as_sure_below_it() -> None:
    draw = np.random.default_rng(0)
    logits = np.abs(draw.normal(0, 1.5, 6000))
    right = draw.random(6000) < 1 / (1 + np.exp(-logits))
    margin, roots = np.where(right, logits, -logits), [str(i) for i in range(6000)]

    honest, bold = (calibration(scale * margin, roots, seed=0) for scale in (1, 2))

    assert len(honest) == 10
    assert all(item["accuracy"]["value"] == pytest.approx(item["confidence"], abs=0.05) for item in honest)
    assert all(item["accuracy"]["value"] < item["confidence"] - 0.02 for item in bold[3:8])


def test_few_pairs_share_one_bin_and_a_tie_counts_half() -> None:
    (only,) = calibration(np.array([0.0, 1.0]), ["a", "b"], seed=0)
    assert (only["accuracy"]["value"], only["accuracy"]["n"]) == (0.75, 2)
