"""Tasks whose answer is known: who qualifies, and how often somebody is checked."""

import random
from collections import Counter

import pytest

from rso_core.errors import UserError
from tests.webapp.human_eval.made_campaigns import (
    answer,
    claimed,
    drawn_verdict,
    expire,
    known_item,
    made_campaign,
    made_rater,
    send,
    verdict,
)
from webapp.accounts.models import User
from webapp.human_eval import assignment
from webapp.human_eval.models import Answer, Campaign, Rater, Slot

pytestmark = pytest.mark.django_db


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
