"""Tasks that a rater would rather not answer, and what they want somebody to look at."""

import pytest

from rso_core.errors import UserError
from tests.webapp.human_eval.made_campaigns import (
    claimed,
    made_campaign,
    made_rater,
    send,
)
from webapp.accounts.models import User
from webapp.human_eval import assignment
from webapp.human_eval.assignment import Outcome
from webapp.human_eval.models import Campaign, Flag, Rater, Skip

pytestmark = pytest.mark.django_db


def test_a_skipped_task_goes_to_somebody_else(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    slot, token = claimed(campaign, first)
    for _ in range(2):  # a double click
        assignment.skip(token, rater=first, reason="expertise", note="law\x00")
    kept = Skip.objects.get()
    assert (kept.reason, kept.note, kept.item) == ("expertise", "law\ufffd", slot.item)
    assert assignment.claim(campaign, first) is None
    assert claimed(campaign, second)[0].pk == slot.pk


def test_who_skips_and_comes_back_may_answer_while_nobody_else_has_the_task(campaign: Campaign, first: Rater) -> None:
    _, token = claimed(campaign, first)
    assignment.skip(token, rater=first, reason="other")
    assert send(token, first)[1] == Outcome.STORED
    assert not Skip.objects.exists()


def test_an_answered_task_cannot_be_skipped(campaign: Campaign, first: Rater) -> None:
    _, token = claimed(campaign, first)
    send(token, first)
    with pytest.raises(UserError, match="you have answered this task already"):
        assignment.skip(token, rater=first, reason="unclear")


def test_a_skip_needs_a_reason_of_the_list(campaign: Campaign, first: Rater) -> None:
    _, token = claimed(campaign, first)
    with pytest.raises(UserError, match="must be one of unclear, expertise, upsetting, broken, other, got 'bored'"):
        assignment.skip(token, rater=first, reason="bored")


def test_a_flagged_task_is_answered_all_the_same(campaign: Campaign, first: Rater) -> None:
    slot, token = claimed(campaign, first)
    flags = {assignment.flag(slot.item, rater=first, reason="unsafe", response=2, note="see").pk for _ in range(2)}
    assert len(flags) == 1
    assert send(token, first)[1] == Outcome.STORED
    kept = Flag.objects.get()
    assert (kept.reason, kept.response, kept.note) == ("unsafe", 2, "see")


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"reason": "ugly"}, "must be one of names_system, unsafe, broken, other"),
        ({"reason": "other", "response": 3}, "has no response 4"),
    ],
)
def test_a_flag_says_what_is_wrong(campaign: Campaign, first: Rater, wrong: dict[str, object], expected: str) -> None:
    slot, _ = claimed(campaign, first)
    with pytest.raises(UserError, match=expected):
        assignment.flag(slot.item, rater=first, **wrong)  # type: ignore[arg-type]


def test_a_task_that_was_never_shown_cannot_be_flagged(campaign: Campaign, first: Rater, second: Rater) -> None:
    slot, _ = claimed(campaign, first)
    with pytest.raises(UserError, match="never yours"):
        assignment.flag(slot.item, rater=second, reason="other")
