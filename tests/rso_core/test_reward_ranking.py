import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rso_core.errors import UserError
from rso_core.models import LanguageModel, add_lora, load, merge_lora
from rso_core.reward_ranking import Pool, Rewards, prefer, rewards
from tests.rso_core.comparisons import CONTEXT, FAMILIES, READ, RESPONSES, logit, probabilities
from tests.rso_core.toys import WORDS, toy_model

BASELINE = "the blue tree"


@pytest.fixture(params=FAMILIES, scope="module")
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(toy_model(tmp_path_factory.mktemp("toy"), request.param))


def score(lm: LanguageModel, *pools: Pool, **changes: Any) -> Any:
    options = {"order_average": True, "batch_size": 8, **READ, **changes}
    return rewards(lm, pools, **options)


def score_one(lm: LanguageModel, responses: Any = RESPONSES, **changes: Any) -> Rewards:
    (found,) = score(lm, Pool(CONTEXT, responses, BASELINE), **changes)
    return found


def choose(lm: LanguageModel, triples: list[tuple[str, str, str]], **changes: Any) -> list[float]:
    options = {"order_average": True, "batch_size": 4, **READ, **changes}
    return prefer(lm, triples, **options)


def test_the_reward_is_half_the_difference_of_both_orders_logits(lm: LanguageModel) -> None:
    found = score_one(lm)

    for index, response in enumerate(RESPONSES):
        first, second = logit(lm, response, "the blue tree"), logit(lm, "the blue tree", response)
        assert found.logit_first[index] == pytest.approx(first, abs=1e-4)
        assert found.logit_second[index] == pytest.approx(second, abs=1e-4)
        assert found.rewards[index] == pytest.approx((first - second) / 2, abs=1e-4)


def test_one_order_is_the_first_for_t5_and_the_second_for_decoders(lm: LanguageModel) -> None:
    one, both = score_one(lm, order_average=False), score_one(lm)

    if lm.family == "seq2seq":
        assert one.logit_second is None
        assert one.rewards == pytest.approx(both.logit_first, abs=1e-4)
    else:
        assert one.logit_first is None
        assert one.rewards == pytest.approx([-value for value in both.logit_second], abs=1e-4)


def test_outside_mass_is_what_the_labels_leave(lm: LanguageModel) -> None:
    found = score_one(lm)

    for index, response in enumerate(RESPONSES):
        orders = ((response, "the blue tree"), ("the blue tree", response))
        outside = [1 - sum(probabilities(lm, CONTEXT, *order)) for order in orders]
        assert found.outside_mass[index] == pytest.approx(sum(outside) / 2, abs=1e-5)


words = st.lists(st.sampled_from(WORDS), min_size=0, max_size=9).map(" ".join)
pools_of_words = st.builds(Pool, words, st.lists(words, min_size=1, max_size=6), words)


@settings(max_examples=25, deadline=None)
@given(st.lists(pools_of_words, min_size=1, max_size=3), st.integers(1, 4))
def test_scores_are_those_of_comparisons_read_one_by_one(lm: LanguageModel, pools: list[Pool], batch_size: int) -> None:
    for pool, found in zip(pools, score(lm, *pools, batch_size=batch_size), strict=True):
        first = [logit(lm, y, pool.baseline, pool.context) for y in pool.responses]
        second = [logit(lm, pool.baseline, y, pool.context) for y in pool.responses]
        assert found.logit_first == pytest.approx(first, abs=1e-4, rel=1e-4)
        assert found.logit_second == pytest.approx(second, abs=1e-4, rel=1e-4)


def test_a_response_that_begins_another_or_is_the_baseline_has_the_score_it_has_alone(lm: LanguageModel) -> None:
    responses = ["the blue", "the blue tree", "the blue tree and", "the blue tree and then", "", "the"]

    found = score_one(lm, responses)

    for index, response in enumerate(responses):
        assert found.logit_first[index] == pytest.approx(logit(lm, response, BASELINE), abs=1e-4)  # type: ignore[index]
        assert found.logit_second[index] == pytest.approx(logit(lm, BASELINE, response), abs=1e-4)  # type: ignore[index]
    assert found.rewards[1] == 0


def test_a_context_of_which_nothing_is_left_changes_no_score(lm: LanguageModel) -> None:
    """All of the context is cut away for the longest responses, none of it for the shortest."""
    responses = [f"{'good cat ' * k}dog" for k in (1, 8, 16, 17, 18, 19, 20, 21)]

    found = score_one(lm, responses)

    for index, response in enumerate(responses):
        assert found.logit_second[index] == pytest.approx(logit(lm, BASELINE, response), abs=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_do_not_depend_on_the_batch(lm: LanguageModel, batch_size: int) -> None:
    assert score_one(lm, batch_size=batch_size).rewards == pytest.approx(score_one(lm).rewards, abs=1e-4)
    triples = [(CONTEXT, a, b) for a in RESPONSES for b in RESPONSES]
    assert choose(lm, triples, batch_size=batch_size) == pytest.approx(choose(lm, triples), abs=1e-4)


def test_scores_do_not_depend_on_the_order_or_on_what_is_asked_besides(lm: LanguageModel) -> None:
    pool, other = Pool(CONTEXT, RESPONSES, BASELINE), Pool("a cat", RESPONSES, "yes")

    alone, beside = score(lm, pool)[0], score(lm, other, pool)[1]
    (turned,) = score(lm, Pool(CONTEXT, RESPONSES[::-1], BASELINE))

    assert beside.rewards == pytest.approx(alone.rewards, abs=1e-4)
    assert turned.rewards[::-1] == alone.rewards  # the same comparisons make the same batches


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_adapters_score_as_the_model_they_make(family: Any, tmp_path: Path) -> None:
    lm = add_lora(load(toy_model(tmp_path, family)), rank=2, alpha=4, seed=0)
    for name, parameter in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted = score_one(lm)

    merged = merge_lora(lm)

    first = [logit(merged, y, BASELINE) for y in RESPONSES]
    assert score_one(merged).logit_first == pytest.approx(first, abs=1e-4)
    assert adapted.logit_first == pytest.approx(first, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_scores_are_near_those_of_one_by_one(family: Any, tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path, family), dtype="bfloat16")

    together, alone = score_one(lm), [score_one(lm, [y]) for y in RESPONSES]

    assert together.rewards == pytest.approx([one.rewards[0] for one in alone], abs=0.1)
    assert together.outside_mass == pytest.approx([one.outside_mass[0] for one in alone], abs=0.05)


def test_comparisons_are_read_up_to_a_number_of_tokens_at_once(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rso_core.reward_ranking.TOKENS_AT_ONCE", 400)
    triples = [(f"{CONTEXT} {a}", a, b) for a in WORDS[:6] for b in WORDS]
    sizes: list[int] = []

    choose(lm, triples, batch_size=100, on_progress=lambda _units, tokens: sizes.append(tokens))

    assert len(sizes) > 1
    # A tree reads a beginning once, so that more fits into it.
    assert max(sizes) > 1000 if lm.family == "causal" else max(sizes) <= 400


def test_equal_responses_have_equal_rewards(lm: LanguageModel) -> None:
    found = score_one(lm)
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
