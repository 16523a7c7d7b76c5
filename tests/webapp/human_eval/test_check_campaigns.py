"""The nightly check finds what no constraint can forbid."""

from collections.abc import Callable
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tests.webapp.human_eval.made_campaigns import answer, expire, made_campaign, made_rater
from webapp.accounts.models import User
from webapp.human_eval import assignment
from webapp.human_eval.invariants import RULES, broken_rules
from webapp.human_eval.models import Answer, Campaign, Exclusion, Item, Rater, Slot

pytestmark = pytest.mark.django_db


@pytest.fixture
def campaign(researcher: User) -> Campaign:
    """A campaign with answers of two raters, surplus, and a task in hand."""
    campaign = made_campaign(researcher, items=4, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    answer(campaign, first)
    answer(campaign, second)
    slot = assignment.claim(campaign, first)
    assert slot is not None
    return campaign


def fewer_replicas(campaign: Campaign) -> None:
    other = made_campaign(campaign.owner, items=1, replicas=3)
    for _ in range(2):
        answer(other, made_rater(other))
    Slot.objects.filter(campaign=other).exclude(status="submitted").delete()
    Campaign.objects.filter(pk=other.pk).update(replicas=1)


def lost_slot(campaign: Campaign) -> None:
    Slot.objects.filter(campaign=campaign, status="open")[0].delete()


def lost_answer(campaign: Campaign) -> None:
    Answer.objects.all()[0].delete()


def counted_in_an_open_slot(campaign: Campaign) -> None:
    free = Slot.objects.filter(status="open")[0]
    Answer.objects.filter(pk=Answer.objects.all()[0].pk).update(slot=free, item=free.item)


def leased_again(campaign: Campaign) -> None:
    given = Answer.objects.all()[0]
    Slot.objects.filter(answers=given).update(status="leased")


def turned_order(campaign: Campaign) -> None:
    slot = Slot.objects.get(status="leased")
    Slot.objects.filter(pk=slot.pk).update(order=slot.order[::-1])


def moved_item(campaign: Campaign) -> None:
    other = made_campaign(campaign.owner, items=1)
    Item.objects.filter(slots__status="leased").update(campaign=other, index=77)


def three_tasks(campaign: Campaign) -> None:
    leased = Slot.objects.get(status="leased")
    spare = made_campaign(campaign.owner, items=3, replicas=1)
    for slot, token in zip(Slot.objects.filter(campaign=spare), range(3), strict=True):
        Slot.objects.filter(pk=slot.pk).update(
            status="leased", rater=leased.rater, token=f"{token:032x}", order=slot.item.base_order,
            lease_expires=leased.lease_expires,
        )  # fmt: skip


def excluded_by_hand(campaign: Campaign) -> None:
    Exclusion.objects.create(campaign=campaign, rater=Rater.objects.all()[0], reason="by hand")


def excluded_answer(campaign: Campaign) -> None:
    Answer.objects.filter(pk=Answer.objects.all()[0].pk).update(standing="excluded")


def surplus_without_reason(campaign: Campaign) -> None:
    Answer.objects.filter(pk=Answer.objects.all()[0].pk).update(standing="surplus")


def off_the_scale(campaign: Campaign) -> None:
    Answer.objects.filter(pk=Answer.objects.all()[0].pk).update(quality_1=9)


BREAK: dict[str, Callable[[Campaign], None]] = {
    "more counted answers than replicas": fewer_replicas,
    "do not have one slot for every replica": lost_slot,
    "are submitted, and no answer": lost_answer,
    "hold a counted answer, and are not submitted": counted_in_an_open_slot,
    "are leased for an item that their rater has answered": leased_again,
    "another order than their row": turned_order,
    "belong to another campaign": moved_item,
    "hold more than two tasks": three_tasks,
    "are excluded, and have answers that count": excluded_by_hand,
    "are excluded, and their rater is not": excluded_answer,
    "are surplus without a reason": surplus_without_reason,
    "are not on the campaign's scale": off_the_scale,
}


def test_a_campaign_in_order_breaks_no_rule(campaign: Campaign) -> None:
    expire(Slot.objects.get(status="leased"))
    out = StringIO()
    call_command("check_campaigns", stdout=out)
    assert out.getvalue() == "1 campaigns: everything fits\n"


@pytest.mark.parametrize("rule", BREAK)
def test_what_does_not_fit_is_found(campaign: Campaign, rule: str) -> None:
    BREAK[rule](campaign)
    with pytest.raises(CommandError, match=rule):
        call_command("check_campaigns")


def test_every_rule_that_no_constraint_forbids_to_break_has_been_broken_here() -> None:
    unbroken = [sentence for sentence in RULES if not any(part in sentence for part in BREAK)]
    assert unbroken == ["items {} have answers of one rater twice"]  # a unique constraint, asked all the same


def test_a_campaign_that_is_asked_for_is_looked_at_alone(campaign: Campaign) -> None:
    surplus_without_reason(campaign)
    other = made_campaign(campaign.owner)
    call_command("check_campaigns", str(other.pk), stdout=StringIO())
    assert list(broken_rules(campaign))
