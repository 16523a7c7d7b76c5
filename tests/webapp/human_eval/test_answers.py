"""Answers: by response index, once, changed with history, and kept when they come late."""

from uuid import uuid4

import pytest

from rso_core.errors import UserError
from tests.webapp.human_eval.made_campaigns import (
    answer,
    claimed,
    expire,
    made_campaign,
    made_rater,
    send,
    verdict,
)
from webapp.accounts.models import User
from webapp.human_eval import assignment
from webapp.human_eval.assignment import Outcome, Verdict
from webapp.human_eval.models import Answer, AnswerVersion, Campaign, Rater, Slot
from webapp.human_eval.rater_text import LONGEST_TEXT

pytestmark = pytest.mark.django_db


def test_an_answer_is_stored_by_response_index(campaign: Campaign, first: Rater) -> None:
    said = Verdict(quality=(1, 4, 2), choice=1, same=False, reason="clear\x00er")
    slot, token = claimed(campaign, first)
    stored, outcome = send(token, first, said)
    assert outcome == Outcome.STORED
    stored = Answer.objects.get(pk=stored.pk)
    assert (stored.quality_0, stored.quality_1, stored.quality_2, stored.choice, stored.same) == (1, 4, 2, 1, False)
    assert (stored.reason, stored.order, stored.slot, stored.standing) == ("clear\ufffder", slot.order, slot, "counted")
    assert not stored.contradicts
    slot.refresh_from_db()
    assert slot.status == "submitted"


@pytest.mark.parametrize(
    ("quality", "choice", "contradicts"), [((5, 4, 4), 1, [1]), ((4, 4, 4), 1, []), ((5, 1, 1), None, [])]
)
def test_a_choice_of_a_lower_score_is_kept_and_noted(
    campaign: Campaign, first: Rater, quality: tuple[int, ...], choice: int | None, contradicts: list[int]
) -> None:
    given_answer = answer(campaign, first, Verdict(quality=quality, choice=choice, same=choice is None))
    assert given_answer.contradicts == bool(contradicts)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Verdict((3, 3), 0, same=False), "every one of the 3 responses needs a score from 1 to 5"),
        (Verdict((3, 3, 6), 0, same=False), "needs a score from 1 to 5"),
        (Verdict((3, 3, 0), 0, same=False), "needs a score from 1 to 5"),
        (Verdict((3, 3, True), 0, same=False), "needs a score from 1 to 5"),
        (Verdict((3, 3, 3), 3, same=False), "must be chosen, got 3"),
        (Verdict((3, 3, 3), None, same=False), "must be chosen, got None"),
        (Verdict((3, 3, 3), 1, same=True), "must be chosen, got 1"),
        (Verdict((3, 3, 3), None, same=True, reason="x" * (LONGEST_TEXT + 1)), "the reason may have 10,000 characters"),
    ],
)
def test_what_the_campaign_does_not_ask_is_refused_and_nothing_is_stored(
    campaign: Campaign, first: Rater, said: Verdict, expected: str
) -> None:
    slot, token = claimed(campaign, first)
    with pytest.raises(UserError, match=expected):
        send(token, first, said)
    assert not Answer.objects.exists()
    slot.refresh_from_db()
    assert slot.status == "leased"


def test_sent_twice_it_is_stored_once(campaign: Campaign, first: Rater) -> None:
    _, token = claimed(campaign, first)
    client = uuid4()
    stored, _ = send(token, first, client=client)
    assert send(token, first, client=client) == (stored, Outcome.ALREADY)
    assert send(token, first) == (stored, Outcome.ALREADY)  # another tab that says the same
    assert (Answer.objects.count(), AnswerVersion.objects.count()) == (1, 0)


def test_a_second_form_that_says_otherwise_changes_the_answer(campaign: Campaign, first: Rater) -> None:
    _, token = claimed(campaign, first)
    client = uuid4()
    send(token, first, verdict(best=0), client)
    stored, outcome = send(token, first, verdict(best=2))
    assert (outcome, stored.choice, stored.quality_0) == (Outcome.CHANGED, 2, 3)
    # A retry of the first form that was under way for long does not undo the change.
    assert send(token, first, verdict(best=0), client)[1] == Outcome.ALREADY
    assert Answer.objects.get().choice == 2
    assert AnswerVersion.objects.get().values["choice"] == 0


def test_the_form_of_one_task_is_not_taken_for_another(campaign: Campaign, first: Rater, second: Rater) -> None:
    client = uuid4()
    answer(campaign, first, client_id=client)
    for rater in (first, second):
        _, token = claimed(campaign, rater)
        with pytest.raises(UserError, match="this form was sent for another task before"):
            send(token, rater, client=client)
    assert Answer.objects.count() == 1


def test_an_answer_is_changed_with_history(campaign: Campaign, first: Rater) -> None:
    stored = answer(campaign, first, best=0)
    changed_before = Answer.objects.get().changed
    for best in (1, 1, None):
        stored = assignment.change(stored, verdict(best=best))
    assert (stored.choice, stored.same) == (None, True)
    assert [version.values["choice"] for version in stored.versions.all()] == [0, 1]
    assert Answer.objects.get().changed > changed_before


def test_answers_of_a_closed_campaign_stand(campaign: Campaign, first: Rater) -> None:
    _, token = claimed(campaign, first)
    stored, _ = send(token, first)
    Campaign.objects.filter(pk=campaign.pk).update(status="closed")
    with pytest.raises(UserError, match="the campaign is closed, so answers cannot be changed any more"):
        assignment.change(stored, verdict(best=1))
    with pytest.raises(UserError, match="the campaign is closed"):
        send(token, first, verdict(best=1))
    assert assignment.change(stored, verdict(best=0)) == stored  # the same again is no change


def test_an_answer_counts_while_the_campaign_is_paused_and_is_surplus_once_it_is_closed(
    campaign: Campaign, first: Rater, second: Rater
) -> None:
    (_, paused), (slot, closed) = claimed(campaign, first), claimed(campaign, second)
    Campaign.objects.filter(pk=campaign.pk).update(status="paused")
    assert send(paused, first)[1] == Outcome.STORED
    Campaign.objects.filter(pk=campaign.pk).update(status="closed")
    client = uuid4()
    late, outcome = send(closed, second, client=client)
    assert (outcome, late.standing) == (Outcome.SURPLUS, "surplus")
    assert late.surplus_reason == "the campaign was closed before it arrived"
    assert send(closed, second, client=client) == (late, Outcome.ALREADY)
    slot.refresh_from_db()
    assert slot.status == "open"  # for when the campaign is opened again


@pytest.mark.parametrize("taken", ["leased", "submitted"])
def test_late_work_is_kept_as_surplus(researcher: User, taken: str) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    slot, token = claimed(campaign, first)
    expire(slot)
    _, other = claimed(campaign, second)
    if taken == "submitted":
        send(other, second)

    late, outcome = send(token, first, verdict(best=2, reason="took its time"))

    assert outcome == Outcome.SURPLUS
    assert (late.standing, late.choice, late.reason) == ("surplus", 2, "took its time")
    assert late.surplus_reason == "its time had run out, and somebody else had taken the task"
    assert late.order == slot.order
    if taken == "leased":
        assert send(other, second)[1] == Outcome.STORED
    assert Answer.objects.filter(standing="counted").get().rater == second


def test_late_work_counts_when_its_slot_is_free_again(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    slot, token = claimed(campaign, first)
    expire(slot)
    _, other = claimed(campaign, second)
    assignment.skip(other, rater=second, reason="expertise")
    assert send(token, first)[1] == Outcome.STORED


def test_late_work_does_not_get_a_rater_above_the_maximum(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2, replicas=1, max_items_per_rater=1)
    first, second, third = (made_rater(campaign) for _ in range(3))
    slot, token = claimed(campaign, first)
    answer(campaign, third)
    expire(slot)
    _, other = claimed(campaign, second)
    Slot.objects.create(campaign=campaign, item=Answer.objects.get().item, number=1, priority=9)
    answer(campaign, first)
    assignment.skip(other, rater=second, reason="other")
    late, outcome = send(token, first)
    assert outcome == Outcome.SURPLUS
    assert "rated all they may" in late.surplus_reason
