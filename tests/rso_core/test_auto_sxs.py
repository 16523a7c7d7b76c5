import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.auto_sxs import (
    Choice,
    Example,
    FewShot,
    Sample,
    Verdict,
    is_better_than_chance,
    judge_prompt,
    label,
    parse_choice,
    same_texts,
    summarize,
    verdict,
)

FEW_SHOT = FewShot(
    instruction="Compare.",
    context="Post",
    response="Summary",
    examples=(Example(context="one", a="x", b="y", explanation="x is\nshort", choice="A"),),
)


def asked(straight: Sequence[Choice | None], swapped: Sequence[Choice | None]) -> Verdict:
    """The verdict on the choices as the judge wrote them, in both orders."""
    return verdict([*(Sample(c, flipped=False) for c in straight), *(Sample(c, flipped=True) for c in swapped)])


# What the judge reads and writes


def test_the_prompt_holds_instruction_examples_and_the_case_and_ends_where_the_judge_begins() -> None:
    assert judge_prompt(FEW_SHOT, "two", "p", "q") == (
        "Compare.\n\n"
        "Post:\none\nSummary (A): x\nSummary (B): y\nexplanation: x is short\nchoice: (A)\n\n"
        "Post:\ntwo\nSummary (A): p\nSummary (B): q\nexplanation:"
    )


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        (" A is shorter.\nchoice: (A)", "A"),
        ("explanation: the choice of words in A is odd.\nChoice: (B).", "B"),
        ("**Choice:** **(B)**", "B"),
        ("choice:\n(same)", "same"),
        ("choice: the better one is (A)", "A"),
        ("choice: Summary B", "B"),
        ("choice: tie", "same"),
        ("choice: (A)\n\nPost:\nanother\nchoice: (B)", "A"),  # it went on to invent a case
        ("Both are fine, but the first wins. (A)", "A"),
    ],
)
def test_a_choice_is_read(answer: str, choice: Choice) -> None:
    assert parse_choice(answer) == choice


@pytest.mark.parametrize(
    "answer",
    ["", "choice:", "choice: (A) or (B)", "choice: A and B", "choice: neither", "(A) and (B)", "A", "(A)\nI like both.", "choice: (C)"],
)  # fmt: skip
def test_what_states_no_choice_or_two_is_unparseable(answer: str) -> None:
    assert parse_choice(answer) is None


@given(st.text())
def test_no_answer_breaks_the_parser(answer: str) -> None:
    assert parse_choice(answer) in {"A", "B", "same", None}


# Verdicts, worked out by hand


def test_a_swapped_sample_is_turned_back() -> None:
    assert label(Sample("A", flipped=False)) == label(Sample("B", flipped=True)) == 1
    assert label(Sample("B", flipped=False)) == label(Sample("A", flipped=True)) == -1
    assert label(Sample("same", flipped=True)) == 0
    assert label(Sample(None, flipped=True)) is None


def test_eight_samples_for_one_system_are_a_win_by_either_reading() -> None:
    found = asked(["A"] * 4, ["B"] * 4)
    assert (found.outcome, found.other_outcome, found.average) == ("win", "win", 1.0)
    assert (found.first_shown, found.second_shown, found.order_flip) == (4, 4, False)


def test_a_judge_that_always_chooses_what_it_sees_first_decides_nothing_and_is_an_order_flip() -> None:
    found = asked(["A"] * 4, ["A"] * 4)
    assert (found.outcome, found.average, found.order_flip) == ("tie", 0.0, True)
    assert (found.first_shown, found.second_shown) == (8, 0)


def test_the_threshold_lies_between_two_and_three_of_eight() -> None:
    # +1 × 4, −1 × 1, 0 × 3: average 3/8 = 0.375 > 0.35
    three = asked(["A", "A", "A", "same"], ["B", "A", "same", "same"])
    # +1 × 3, −1 × 1, 0 × 4: average 2/8 = 0.25
    two = asked(["A", "A", "same", "same"], ["B", "A", "same", "same"])
    assert (three.average, three.outcome, three.other_outcome) == (0.375, "win", "tie")
    assert (two.average, two.outcome) == (0.25, "tie")
    assert not three.order_flip


def test_unparseable_samples_leave_the_average_and_are_counted() -> None:
    # B, B, B turned round: −1, −1 (straight), +1 of four parsed: (−1 − 1 + 1 − 1) / 4 = −0.5
    found = asked(["B", "B", None, None], ["B", "A", None, None])
    assert (found.average, found.outcome, found.parsed, found.unparseable) == (-0.5, "loss", 4, 4)


def test_fewer_than_two_parsed_in_either_order_are_unjudged() -> None:
    found = asked(["A"] * 4, ["B", None, None, None])
    assert (found.outcome, found.other_outcome, found.unparseable) == ("unjudged", "unjudged", 3)
    assert math.isnan(found.average)
    assert not found.order_flip


@given(st.lists(st.sampled_from(["A", "B", "same", None]), min_size=8, max_size=8))
def test_exchanging_the_systems_turns_the_verdict_round(choices: list[Choice | None]) -> None:
    ours = asked(choices[:4], choices[4:])
    theirs = asked(choices[4:], choices[:4])  # what was shown swapped is now shown straight
    turned = {"win": "loss", "loss": "win"}
    assert theirs.outcome == turned.get(ours.outcome, ours.outcome)
    assert theirs.order_flip == ours.order_flip


def test_no_samples_are_a_programmers_mistake() -> None:
    with pytest.raises(ValueError, match="at least one answer, got none"):
        verdict([])


# The score


def test_the_score_is_wins_and_half_the_ties_over_what_was_judged() -> None:
    win, loss = asked(["A"] * 4, ["B"] * 4), asked(["B"] * 4, ["A"] * 4)
    flip, lost = asked(["A"] * 4, ["A"] * 4), asked([None] * 4, ["A"] * 4)
    weak = asked(["A", "A", "A", "same"], ["B", "A", "same", "same"])  # a win by our reading only
    found = summarize([win, weak, loss, flip, lost], ["r1", "r2", "r3", "r4", "r5"], draws=200, seed=0)
    assert found["score"]["value"] == pytest.approx((2 + 0.5) / 4)
    assert found["wins_over_all"]["value"] == pytest.approx(2 / 4)
    assert found["other_reading"]["value"] == pytest.approx((1 + 2 * 0.5) / 4)
    assert found["score"]["n"] == 4
    assert found["outcomes"] == {"win": 2, "loss": 1, "tie": 1, "unjudged": 1}
    assert (found["prompts"], found["samples"], found["unparseable"], found["order_flips"]) == (5, 40, 4, 1)


def test_prompts_of_one_conversation_are_one_cluster() -> None:
    verdicts = [asked(["A"] * 4, ["B"] * 4)] * 5 + [asked(["B"] * 4, ["A"] * 4)] * 5
    apart = summarize(verdicts, [str(i) for i in range(10)], draws=500, seed=0)["score"]
    together = summarize(verdicts, ["a"] * 5 + ["b"] * 5, draws=500, seed=0)["score"]
    assert together["high"] - together["low"] > apart["high"] - apart["low"]


def test_nothing_judged_has_no_score() -> None:
    found = summarize([asked([None] * 4, [None] * 4)], ["r"], draws=200, seed=0)
    assert found["score"] is None
    assert found["outcomes"]["unjudged"] == 1


def test_equal_texts_are_an_exact_tie() -> None:
    found = same_texts()
    assert (found.outcome, found.average, found.parsed, found.unparseable) == ("tie", 0.0, 0, 0)


@pytest.mark.parametrize(("low", "better"), [(0.49, False), (0.5, False), (0.51, True)])
def test_a_judge_whose_interval_reaches_one_half_is_not_better_than_chance(low: float, *, better: bool) -> None:
    assert is_better_than_chance({"value": 0.6, "low": low, "high": 0.7, "n": 50}) is better
    assert not is_better_than_chance(None)
