import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rso_core.artifacts import Row
from rso_core.config import RewardConfig
from rso_core.errors import UserError
from rso_core.models import LanguageModel, load
from rso_core.protocol import Event, Log, Metrics
from rso_core.reward_ranking import (
    heldout_accuracy,
    is_flipped,
    prefer,
    rewards,
    shared_prefix,
    train_reward,
    vocabulary_logits,
)
from rso_core.templates import label_ids, reward_input_ids
from rso_core.vocabulary import Family
from tests.rso_core.chain import dataset_row, texts
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
CONTEXT = "the cat sat on the mat and then ran under the tree"
RESPONSES = ["good cat", "bad dog ran", "the red dog sat on a very long post", "good cat", "yes", "no no no no"]
READ: dict[str, Any] = {"task": "summarization", "max_length": 64}


@pytest.fixture(params=FAMILIES)
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    return load(toy_model(tmp_path / "toy", request.param))


def probabilities(lm: LanguageModel, context: str, first: str, second: str) -> tuple[float, float]:
    """Return P(A) and P(B) of one comparison, without batches or padding."""
    ids = torch.tensor(
        [reward_input_ids(lm.tokenizer, lm.family, context=context, first=first, second=second, **READ).ids]
    )
    extra = (
        {} if lm.family == "causal" else {"decoder_input_ids": torch.tensor([[lm.model.config.decoder_start_token_id]])}
    )
    with torch.no_grad():
        distribution = lm.model(input_ids=ids, **extra).logits[0, -1].softmax(0)
    first_id, second_id = label_ids(lm.tokenizer, lm.family)
    return distribution[first_id].item(), distribution[second_id].item()


def logit(lm: LanguageModel, first: str, second: str, context: str = CONTEXT) -> float:
    in_favour, against = probabilities(lm, context, first, second)
    return math.log(in_favour) - math.log(against)


def score(lm: LanguageModel, *, batch_size: int = 8, order_average: bool = True) -> Any:
    return rewards(
        lm, context=CONTEXT, responses=RESPONSES, baseline="the blue tree", order_average=order_average,
        batch_size=batch_size, **READ,
    )  # fmt: skip


def choose(lm: LanguageModel, triples: list[tuple[str, str, str]], **changes: Any) -> list[float]:
    options = {"order_average": True, "batch_size": 4, **READ, **changes}
    return prefer(lm, triples, **options)


def test_the_reward_is_half_the_difference_of_both_orders_logits(lm: LanguageModel) -> None:
    found = score(lm)

    for index, response in enumerate(RESPONSES):
        first, second = logit(lm, response, "the blue tree"), logit(lm, "the blue tree", response)
        assert found.logit_first[index] == pytest.approx(first, abs=1e-4)
        assert found.logit_second[index] == pytest.approx(second, abs=1e-4)
        assert found.rewards[index] == pytest.approx((first - second) / 2, abs=1e-4)


def test_one_order_is_the_first_for_t5_and_the_second_for_decoders(lm: LanguageModel) -> None:
    one, both = score(lm, order_average=False), score(lm)

    if lm.family == "seq2seq":
        assert one.logit_second is None
        assert one.rewards == pytest.approx(both.logit_first, abs=1e-4)
    else:
        assert one.logit_first is None
        assert one.rewards == pytest.approx([-value for value in both.logit_second], abs=1e-4)


def test_outside_mass_is_what_the_labels_leave(lm: LanguageModel) -> None:
    found = score(lm)

    for index, response in enumerate(RESPONSES):
        orders = ((response, "the blue tree"), ("the blue tree", response))
        outside = [1 - sum(probabilities(lm, CONTEXT, *order)) for order in orders]
        assert found.outside_mass[index] == pytest.approx(sum(outside) / 2, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_do_not_depend_on_the_batch(lm: LanguageModel, batch_size: int) -> None:
    assert score(lm, batch_size=batch_size).rewards == pytest.approx(score(lm).rewards, abs=1e-4)
    triples = [(CONTEXT, a, b) for a in RESPONSES for b in RESPONSES]
    assert choose(lm, triples, batch_size=batch_size) == pytest.approx(choose(lm, triples), abs=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reading_a_shared_beginning_once_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"), dtype=dtype)
    found = []
    for shortest in (1, 10_000):
        monkeypatch.setattr("rso_core.reward_ranking.SHARED_TOKENS", shortest)
        found.append(score(lm))

    tolerance = {"float32": 1e-4, "bfloat16": 0.1}[dtype]
    assert found[0].rewards == pytest.approx(found[1].rewards, abs=tolerance)
    assert found[0].outside_mass == pytest.approx(found[1].outside_mass, abs=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_a_bfloat16_model_are_not_rounded_to_bfloat16(family: Family, tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", family), dtype="bfloat16")
    lm.model.eval()
    with torch.no_grad():
        logits = vocabulary_logits(lm, [[3, 4, 5], [6, 7]])
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).float().mean() > 0.5
    torch.testing.assert_close(logits, logits.bfloat16().float(), rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        again = lm.plain.get_output_embeddings()(torch.zeros(1, lm.plain.config.hidden_size, dtype=torch.bfloat16))
    assert again.dtype == torch.bfloat16  # only while answers are read


def test_a_shared_beginning_leaves_a_token_of_each_sequence() -> None:
    assert shared_prefix([[1, 2, 3], [1, 2, 4], [1, 2, 3, 5]]) == 2
    assert shared_prefix([[1, 2], [1, 2], [1, 2, 3]]) == 1
    assert shared_prefix([[1, 2, 3]]) == 2
    assert shared_prefix([[1], [2]]) == 0


def test_equal_responses_have_equal_rewards(lm: LanguageModel) -> None:
    found = score(lm)
    assert found.rewards[0] == found.rewards[3]


def test_a_preference_turned_round_is_its_complement_exactly(lm: LanguageModel) -> None:
    triples = [(CONTEXT, a, b) for a in RESPONSES for b in RESPONSES]
    forward = choose(lm, triples)
    backward = choose(lm, [(context, b, a) for context, a, b in triples])

    assert all(p == 1 - q or q == 1 - p for p, q in zip(forward, backward, strict=True))
    assert all(p == 0.5 for (_, a, b), p in zip(triples, forward, strict=True) if a == b)


def test_preferences_come_in_the_order_of_the_questions(lm: LanguageModel) -> None:
    triples = [("the cat", "yes", "no"), (CONTEXT, "good", "bad dog sat on a mat"), ("a", "red", "blue")]

    for (context, first, second), found in zip(triples, choose(lm, triples), strict=True):
        margin = (logit(lm, first, second, context) - logit(lm, second, first, context)) / 2
        assert found == pytest.approx(1 / (1 + math.exp(-margin)), abs=1e-4)
    (context, first, second), one_order = triples[1], choose(lm, triples, order_average=False)
    assert one_order[1] == pytest.approx(1 / (1 + math.exp(-logit(lm, first, second, context))), abs=1e-4)


@pytest.mark.parametrize("order_average", [True, False])
def test_progress_counts_every_question_once(lm: LanguageModel, order_average: bool) -> None:  # noqa: FBT001
    triples = [(CONTEXT, a, b) for a in RESPONSES for b in RESPONSES]
    seen: list[tuple[int, int]] = []

    choose(lm, triples, order_average=order_average, on_progress=lambda units, tokens: seen.append((units, tokens)))

    assert sum(units for units, _ in seen) == len(triples)
    assert all(tokens > 0 for _, tokens in seen)


def test_no_question_has_no_answer(lm: LanguageModel) -> None:
    assert choose(lm, []) == []


def test_two_responses_that_do_not_fit_say_what_to_raise(lm: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"raise reward\.max_length"):
        choose(lm, [(CONTEXT, "good " * 40, "bad " * 40)])


def human_rows(count: int, label: Callable[[str, str], bool]) -> list[Row]:
    """Return pairs of texts of which the one that `label` says is the winner."""
    found = []
    for number, (first, second) in enumerate(zip(texts(count, 3, seed=1), texts(count, 3, seed=2), strict=True), 1):
        chosen, rejected = (first, second) if label(first, second) else (second, first)
        found.append(dataset_row(number, f"post {CONTEXT}", chosen=chosen, rejected=rejected))
    return found


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
    }  # fmt: skip
