"""Who rates what next, one action after the other: what everybody who codes against `assignment` may rely on."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

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
from webapp.human_eval.assignment import Outcome
from webapp.human_eval.models import Answer, Campaign, EndedLease, Rater, Slot

pytestmark = pytest.mark.django_db


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
