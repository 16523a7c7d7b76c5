"""What raters do, one action after the other: what everybody who codes against `assignment` may rely on."""

import random
from collections import Counter
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from rso_core.errors import UserError
from tests.webapp.human_eval.made_campaigns import (
    answer,
    drawn_verdict,
    expire,
    known_item,
    made_campaign,
    made_rater,
    verdict,
)
from webapp.accounts.models import User
from webapp.human_eval import assignment
from webapp.human_eval.assignment import Outcome, Verdict
from webapp.human_eval.models import Answer, AnswerVersion, Campaign, EndedLease, Flag, Rater, Skip, Slot
from webapp.human_eval.rater_text import LONGEST_TEXT

pytestmark = pytest.mark.django_db


@pytest.fixture
def campaign(researcher: User) -> Campaign:
    return made_campaign(researcher)


@pytest.fixture
def first(campaign: Campaign) -> Rater:
    return made_rater(campaign)


@pytest.fixture
def second(campaign: Campaign) -> Rater:
    return made_rater(campaign)


def claimed(campaign: Campaign, rater: Rater) -> tuple[Slot, UUID]:
    slot = assignment.claim(campaign, rater)
    assert slot is not None
    assert slot.token is not None
    return slot, slot.token


def send(token: UUID, rater: Rater, said: Verdict | None = None, client: UUID | None = None) -> tuple[Answer, Outcome]:
    return assignment.submit(token, said or verdict(), rater=rater, client_id=client or uuid4())


# Orders


def order_of(base_order: str, number: int) -> str:
    """Return what `ORDER_SQL` says of replica `number`, written again in Python."""
    shift = number % len(base_order)
    row = base_order[shift:] + base_order[:shift]
    return row[::-1] if number // len(base_order) % 2 else row


@given(st.sampled_from(["01", "10", "012", "021", "102", "120", "201", "210"]), st.integers(0, 50))
def test_over_the_replicas_each_response_stands_once_in_every_place(base: str, block: int) -> None:
    way = len(base)
    orders = [order_of(base, block * way + number) for number in range(way)]
    assert all(sorted(order) == sorted(base) for order in orders)
    assert all(len({order[place] for order in orders}) == way for place in range(way))


@pytest.mark.parametrize(
    ("base", "orders"), [("012", ["012", "120", "201", "210", "021", "102"]), ("10", ["10", "01", "01", "10"])]
)
def test_every_second_block_of_replicas_has_the_reversed_rows(base: str, orders: list[str]) -> None:
    assert [order_of(base, number) for number in range(2 * len(base))] == orders


@pytest.mark.parametrize(("way", "replicas"), [(3, 7), (2, 5)])
def test_the_order_stored_at_the_claim_is_the_row_of_the_square(researcher: User, way: int, replicas: int) -> None:
    campaign = made_campaign(researcher, items=5, way=way, replicas=replicas)
    for _ in range(replicas):
        rater = made_rater(campaign)
        while slot := assignment.claim(campaign, rater):
            assert slot.order == order_of(slot.item.base_order, slot.number)
            given_answer, _ = send(slot.token, rater, verdict(way))
            assert given_answer.order == slot.order
    assert Answer.objects.filter(standing="counted").count() == 5 * replicas


# Claims


def test_reload_and_a_second_tab_show_the_task_in_hand(campaign: Campaign, first: Rater) -> None:
    slot, token = claimed(campaign, first)
    again, same = claimed(campaign, first)
    assert (again.pk, same, again.order, again.shown) == (slot.pk, token, slot.order, slot.shown)


def test_a_claim_is_one_round_trip_once_the_connection_has_prepared_it(campaign: Campaign, first: Rater) -> None:
    claimed(campaign, first)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assignment.claim(campaign, first)
    assert len([query for query in queries if "SAVEPOINT" not in query["sql"]]) == 1


def test_the_task_in_hand_comes_before_the_prefetched_one(campaign: Campaign, first: Rater) -> None:
    slot, token = claimed(campaign, first)
    ahead = assignment.claim_ahead(campaign, first, after=slot)
    assert ahead is not None
    assert (ahead.ahead, ahead.shown) == (True, None)
    assert claimed(campaign, first)[1] == token

    send(token, first)

    now, _ = claimed(campaign, first)
    assert (now.pk, now.token, now.ahead) == (ahead.pk, ahead.token, False)
    assert now.shown is not None


def test_at_most_one_task_is_prefetched(campaign: Campaign, first: Rater) -> None:
    slot, _ = claimed(campaign, first)
    ahead = {assignment.claim_ahead(campaign, first, after=slot).pk for _ in range(3)}  # type: ignore[union-attr]
    assert len(ahead) == 1
    assert Slot.objects.filter(rater=first).count() == 2


def test_a_heartbeat_of_the_prefetched_task_makes_it_the_one_in_hand(campaign: Campaign, first: Rater) -> None:
    slot, token = claimed(campaign, first)
    ahead = assignment.claim_ahead(campaign, first, after=slot)
    send(token, first)
    assert ahead is not None
    assert assignment.heartbeat(ahead.token, rater=first, active_ms=0)  # type: ignore[arg-type]
    ahead.refresh_from_db()
    assert not ahead.ahead
    assert ahead.shown is not None


def test_nobody_gets_an_item_twice_whatever_became_of_it(campaign: Campaign, first: Rater, second: Rater) -> None:
    answered = answer(campaign, first).item_id
    _, token = claimed(campaign, first)
    assignment.skip(token, rater=first, reason="unclear")
    late, late_token = claimed(campaign, first)
    Slot.objects.filter(item=late.item).exclude(pk=late.pk).update(status="void")
    expire(late)
    while late.rater == first:
        answer(campaign, second)
        late.refresh_from_db()
    assert send(late_token, first)[1] == Outcome.SURPLUS

    items = []
    while slot := assignment.claim(campaign, first):
        items.append(slot.item_id)
        send(slot.token, first)
    assert len(items) == len(set(items)) == 3
    assert not {answered, late.item_id} & set(items)


def test_open_slots_are_handed_out_before_a_lease_that_has_run_out(
    researcher: User, first: Rater, second: Rater
) -> None:
    campaign = made_campaign(researcher, items=2, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    slot, token = claimed(campaign, first)
    expire(slot)
    assert answer(campaign, second).item_id != slot.item_id
    assert claimed(campaign, second)[0].pk == slot.pk
    assert not assignment.heartbeat(token, rater=first, active_ms=1)
    ended = EndedLease.objects.get()
    assert (ended.token, ended.rater, ended.why) == (token, first, "taken")


def test_a_lease_that_has_run_out_is_good_while_nobody_has_taken_it(campaign: Campaign, first: Rater) -> None:
    slot, token = claimed(campaign, first)
    expire(slot)
    assert claimed(campaign, first)[1] == token
    expire(slot)
    assert assignment.heartbeat(token, rater=first, active_ms=1)
    slot.refresh_from_db()
    assert slot.lease_expires > slot.claimed
    expire(slot)
    assert send(token, first)[1] == Outcome.STORED


@pytest.mark.parametrize("status", ["draft", "paused", "closed"])
def test_only_an_open_campaign_hands_out_work(campaign: Campaign, first: Rater, status: str) -> None:
    claimed(campaign, first)
    Campaign.objects.filter(pk=campaign.pk).update(status=status)
    assert assignment.claim(campaign, first) is None
    assert assignment.standing(campaign, first).end == "not_open"


def test_who_has_not_joined_gets_nothing(campaign: Campaign) -> None:
    stranger = made_rater()
    for ask in (assignment.claim, assignment.standing):
        with pytest.raises(UserError, match="has not joined this campaign"):
            ask(campaign, stranger)


def test_a_rater_gets_as_many_tasks_as_they_may(researcher: User) -> None:
    campaign = made_campaign(researcher, max_items_per_rater=2)
    rater = made_rater(campaign)
    slot, token = claimed(campaign, rater)
    assert assignment.standing(campaign, rater).left_for_me == 2
    assert assignment.claim_ahead(campaign, rater, after=slot)
    send(token, rater)
    answer(campaign, rater)
    assert assignment.claim(campaign, rater) is None
    standing = assignment.standing(campaign, rater)
    assert (standing.end, standing.done, standing.left_for_me, standing.maximum) == ("maximum", 2, 0, 2)


def test_a_rater_whose_account_is_deleted_leaves_answers_and_slots_in_order(campaign: Campaign, rater: User) -> None:
    leaving = made_rater(campaign, user=rater)
    kept = answer(campaign, leaving)
    _, token = claimed(campaign, leaving)

    rater.delete()

    leaving.refresh_from_db()
    assert leaving.user is None
    assert send(token, leaving)[1] == Outcome.STORED
    kept.refresh_from_db()
    assert (kept.rater, kept.standing) == (leaving, "counted")


# Ends


def test_the_three_ends_are_told_apart(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=2)
    one, two, three = (made_rater(campaign) for _ in range(3))
    answer(campaign, one)
    assert assignment.standing(campaign, one).end == "all_done"  # one replica is open, for somebody else
    _, token = claimed(campaign, two)
    waiting = assignment.standing(campaign, three)
    assert (waiting.end, waiting.leased_by_others, waiting.left_for_me) == ("others_working", 1, 0)
    send(token, two)
    assert assignment.standing(campaign, three).end == "all_done"


def test_the_standing_counts_tasks_and_not_replicas(campaign: Campaign, first: Rater) -> None:
    assert assignment.standing(campaign, first).left_for_me == 6
    answer(campaign, first)
    claimed(campaign, first)
    standing = assignment.standing(campaign, first)
    assert (standing.done, standing.left_for_me, standing.end) == (1, 5, "")


# Heartbeats


def test_time_of_work_never_exceeds_the_time_that_has_passed(campaign: Campaign, first: Rater) -> None:
    slot, token = claimed(campaign, first)
    Slot.objects.filter(pk=slot.pk).update(shown=F("shown") - timedelta(seconds=10))
    for _ in range(3):  # two tabs and a wrong clock
        assignment.heartbeat(token, rater=first, active_ms=6_000)
    slot.refresh_from_db()
    assert 9_000 < slot.active_ms < 12_000
    given_answer, _ = assignment.submit(token, verdict(), rater=first, client_id=uuid4(), active_ms=10**12)
    assert given_answer.active_ms == given_answer.elapsed_ms < 12_000


def test_a_negative_time_of_work_counts_nothing(campaign: Campaign, first: Rater) -> None:
    slot, token = claimed(campaign, first)
    assert assignment.heartbeat(token, rater=first, active_ms=-5)
    slot.refresh_from_db()
    assert slot.active_ms == 0


def test_a_page_that_is_merely_open_does_not_extend_the_lease(campaign: Campaign, first: Rater) -> None:
    slot, token = claimed(campaign, first)
    assert assignment.heartbeat(token, rater=first, active_ms=0)
    before = slot.lease_expires
    slot.refresh_from_db()
    assert slot.lease_expires == before
    assert assignment.heartbeat(token, rater=first, active_ms=1)
    slot.refresh_from_db()
    assert slot.lease_expires > before


def test_work_on_one_task_extends_the_lease_of_the_prefetched_one(campaign: Campaign, first: Rater) -> None:
    slot, token = claimed(campaign, first)
    ahead = assignment.claim_ahead(campaign, first, after=slot)
    assert ahead is not None
    expire(ahead)
    assignment.heartbeat(token, rater=first, active_ms=1)
    ahead.refresh_from_db()
    assert ahead.lease_expires > ahead.claimed
    assert (ahead.ahead, ahead.active_ms) == (True, 0)


def test_a_draft_is_kept_with_the_lease_until_the_answer(campaign: Campaign, first: Rater) -> None:
    _, token = claimed(campaign, first)
    draft = {"quality": [1, None, 5], "reason": "half a \x00 thought \ud800", "number": float("nan")}
    assignment.heartbeat(token, rater=first, active_ms=1, draft=draft)
    assert claimed(campaign, first)[0].draft == {
        "quality": [1, None, 5],
        "reason": "half a \ufffd thought ?",
        "number": None,
    }
    given_answer, _ = send(token, first)
    assert Slot.objects.get(answers=given_answer).draft is None


@pytest.mark.parametrize("draft", [{"reason": "x" * 60_000}, {"file": object()}])
def test_a_draft_that_cannot_be_kept_is_refused(campaign: Campaign, first: Rater, draft: dict[str, object]) -> None:
    _, token = claimed(campaign, first)
    with pytest.raises(UserError, match="the draft"):
        assignment.heartbeat(token, rater=first, active_ms=1, draft=draft)


def test_the_token_of_somebody_else_is_worth_nothing(campaign: Campaign, first: Rater, second: Rater) -> None:
    slot, token = claimed(campaign, first)
    assert not assignment.heartbeat(token, rater=second, active_ms=1, draft={"a": 1})
    for act in (lambda: send(token, second), lambda: assignment.skip(token, rater=second, reason="unclear")):
        with pytest.raises(UserError, match="this task is not yours"):
            act()
    slot.refresh_from_db()
    assert (slot.status, slot.rater, slot.draft) == ("leased", first, None)


# Answers


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


# Skips and flags


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


# Qualification and checks


def qualifying(researcher: User, *, needed: int) -> tuple[Campaign, Rater]:
    campaign = made_campaign(researcher, qualification_pass=needed)
    for expected in (0, 1, None):
        known_item(campaign, "qualification", expected=expected, feedback="because")
    return campaign, made_rater(campaign, qualification="pending")


@pytest.mark.parametrize(
    ("choices", "needed", "result"),
    [
        ((0, 1, None), 3, "passed"),
        ((0, 1, 2), 2, "passed"),
        ((0, 2, 2), 2, "failed"),
        ((1, 2, 2), 0, "passed"),
    ],
)
def test_qualification_items_come_first_in_order_and_decide(
    researcher: User, choices: tuple[int | None, ...], needed: int, result: str
) -> None:
    campaign, rater = qualifying(researcher, needed=needed)
    for left, choice in zip((3, 2, 1), choices, strict=True):
        assert assignment.standing(campaign, rater).left_for_me == left
        given_answer = answer(campaign, rater, best=choice)
        assert given_answer.item.kind == "qualification"
    assert rater.participations.get().qualification == result
    following = assignment.claim(campaign, rater)
    if result == "passed":
        assert following is not None
        assert following.item.kind == "main"
        assert assignment.standing(campaign, rater).done == 0
    else:
        assert following is None
        assert assignment.standing(campaign, rater).end == "failed_qualification"


def test_no_counted_task_is_prefetched_before_the_qualification_is_decided(researcher: User) -> None:
    campaign, rater = qualifying(researcher, needed=1)
    kinds = []
    for _ in range(3):
        slot, token = claimed(campaign, rater)
        ahead = assignment.claim_ahead(campaign, rater, after=slot)
        kinds.append(ahead and ahead.item.kind)
        send(token, rater)
    assert kinds == ["qualification", "qualification", None]


def test_a_qualification_answer_cannot_be_changed_once_marked(researcher: User) -> None:
    campaign, rater = qualifying(researcher, needed=3)
    stored = answer(campaign, rater, best=2)
    with pytest.raises(UserError, match="has been marked"):
        assignment.change(stored, verdict(best=0))


def test_skipped_qualification_items_are_not_right(researcher: User) -> None:
    campaign, rater = qualifying(researcher, needed=1)
    for _ in range(3):
        _, token = claimed(campaign, rater)
        assignment.skip(token, rater=rater, reason="unclear")
    assert assignment.standing(campaign, rater).end == "failed_qualification"


def test_without_qualification_items_everybody_qualifies(campaign: Campaign) -> None:
    rater = made_rater(campaign, qualification="pending")
    assert assignment.standing(campaign, rater).end == ""
    assert claimed(campaign, rater)[0].item.kind == "main"
    assert rater.participations.get().qualification == "passed"


def test_check_items_come_at_the_campaigns_share_and_are_never_taken_by_others(researcher: User) -> None:
    campaign = made_campaign(researcher, items=60, replicas=2, check_share=0.1)
    checks = {known_item(campaign, expected=0).pk for _ in range(5)}
    raters = [made_rater(campaign) for _ in range(2)]
    places = []
    for rater in raters:
        kinds = []
        left = assignment.standing(campaign, rater).left_for_me
        while slot := assignment.claim(campaign, rater):
            assert (slot.item_id in checks) == (slot.item.kind == "check")
            kinds.append(slot.item.kind)
            if len(kinds) == 1:
                expire(slot)
            send(slot.token, rater)
            left -= 1
            assert assignment.standing(campaign, rater).left_for_me == left  # a check gives itself away by nothing
        assert Counter(kinds) == {"main": 60, "check": 5}
        places.append([place for place, kind in enumerate(kinds) if kind == "check"])
        assert [place // 10 for place in places[-1]] == [0, 1, 2, 3, 4]  # one in each ten
    assert places[0] != places[1]
    assert Answer.objects.filter(item__kind="check", standing="counted").count() == 10


def test_checks_count_towards_what_a_rater_may_do(researcher: User) -> None:
    campaign = made_campaign(researcher, items=60, replicas=1, check_share=0.1, max_items_per_rater=30)
    for _ in range(5):
        known_item(campaign)
    rater = made_rater(campaign)
    kinds: Counter[str] = Counter()
    while slot := assignment.claim(campaign, rater):
        kinds[slot.item.kind] += 1
        send(slot.token, rater)
    assert kinds == {"main": 27, "check": 3}


def test_a_skipped_check_is_not_followed_by_another_one(researcher: User) -> None:
    campaign = made_campaign(researcher, items=30, check_share=0.1)
    for _ in range(5):
        known_item(campaign)
    rater = made_rater(campaign)
    rng = random.Random(1)  # noqa: S311
    slot, token = claimed(campaign, rater)
    while slot.item.kind == "main":
        send(token, rater, drawn_verdict(rng))
        slot, token = claimed(campaign, rater)
    assignment.skip(token, rater=rater, reason="other")
    assert claimed(campaign, rater)[0].item.kind == "main"
    assert not Slot.objects.filter(item=slot.item).exists()
