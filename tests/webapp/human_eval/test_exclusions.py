"""Leaving a rater out and taking that back: what counts, whose slots are open, what is recorded."""

from uuid import uuid4

import pytest

from rso_core.errors import UserError
from tests.webapp.human_eval.made_campaigns import answer, expire, known_item, made_campaign, made_rater, verdict
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval import assignment, exclusions
from webapp.human_eval.assignment import Outcome
from webapp.human_eval.invariants import broken_rules
from webapp.human_eval.models import Answer, Campaign, Exclusion, Slot

pytestmark = pytest.mark.django_db


def standings(campaign: Campaign) -> dict[str, int]:
    found = list(Answer.objects.filter(campaign=campaign).values_list("standing", flat=True))
    return {standing: found.count(standing) for standing in sorted(set(found))}


def test_an_excluded_raters_answers_do_not_count_and_the_slots_go_to_others(researcher: User) -> None:
    campaign = made_campaign(researcher, items=3, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    answer(campaign, first)
    assignment.claim(campaign, first)

    exclusions.exclude(campaign, first, by=researcher, reason="  always the left one ")

    assert standings(campaign) == {"excluded": 1}
    assert assignment.claim(campaign, first) is None
    assert assignment.standing(campaign, first).end == "excluded"
    for _ in range(3):
        answer(campaign, second)
    assert standings(campaign) == {"counted": 3, "excluded": 1}
    assert list(broken_rules(campaign)) == []


def test_the_decision_and_its_lifting_are_recorded(researcher: User, admin: User) -> None:
    campaign = made_campaign(researcher)
    rater = made_rater(campaign)
    answer(campaign, rater)
    exclusion = exclusions.exclude(campaign, rater, by=researcher, reason=" too fast ")
    exclusions.lift(exclusion, by=admin)
    kept = Exclusion.objects.get()
    assert (kept.reason, kept.by, kept.lifted_by) == ("too fast", researcher, admin)
    assert kept.lifted is not None
    entries = [(entry.actor, entry.action, entry.label, entry.details) for entry in AuditEntry.objects.order_by("id")]
    assert entries == [
        (researcher, "excluded", rater.pseudonym, {"campaign": campaign.pk, "reason": "too fast", "answers": 1}),
        (admin, "lifted", rater.pseudonym, {"campaign": campaign.pk, "counted": 1, "surplus": 0}),
    ]


def test_lifting_lets_answers_count_whose_slots_are_free_and_keeps_the_others_as_surplus(researcher: User) -> None:
    campaign = made_campaign(researcher, items=3, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    given = [answer(campaign, first) for _ in range(3)]
    exclusion = exclusions.exclude(campaign, first, by=researcher, reason="too fast")
    answer(campaign, second)
    in_hand = assignment.claim(campaign, second)

    exclusions.lift(exclusion, by=researcher)

    assert standings(campaign) == {"counted": 2, "surplus": 2}  # one is given, one in hand
    free = Answer.objects.get(rater=first, standing="counted")
    assert free in given
    assert free.slot is not None
    assert (free.slot.status, free.slot.rater, free.slot.order) == ("submitted", first, free.order)
    reasons = Answer.objects.filter(standing="surplus").values_list("surplus_reason", flat=True)
    assert set(reasons) == {"its slot went to somebody else while the rater was excluded"}
    assert in_hand is not None
    assert list(broken_rules(campaign)) == []


def test_work_in_hand_when_a_rater_is_excluded_is_kept_and_counts_once_that_is_lifted(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    rater = made_rater(campaign)
    slot = assignment.claim(campaign, rater)
    assert slot is not None
    exclusion = exclusions.exclude(campaign, rater, by=researcher, reason="mistaken for another")
    late, outcome = assignment.submit(slot.token, verdict(), rater=rater, client_id=uuid4())  # type: ignore[arg-type]
    assert (late.standing, outcome) == ("excluded", Outcome.SURPLUS)
    exclusions.lift(exclusion, by=researcher)
    late.refresh_from_db()
    assert late.standing == "counted"


def test_a_form_sent_again_after_the_exclusion_stores_nothing(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    rater, client = made_rater(campaign), uuid4()
    slot = assignment.claim(campaign, rater)
    assert slot is not None
    stored, _ = assignment.submit(slot.token, verdict(), rater=rater, client_id=client)  # type: ignore[arg-type]
    exclusions.exclude(campaign, rater, by=researcher, reason="too fast")
    again = assignment.submit(slot.token, verdict(), rater=rater, client_id=client)  # type: ignore[arg-type]
    assert again == (stored, Outcome.ALREADY)
    with pytest.raises(UserError, match="not part of this campaign any more"):
        assignment.change(stored, verdict(best=1))


def test_answers_to_known_items_are_left_out_and_taken_back_too(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    known_item(campaign, "qualification")
    rater = made_rater(campaign, qualification="pending")
    answer(campaign, rater)
    answer(campaign, rater)
    exclusion = exclusions.exclude(campaign, rater, by=researcher, reason="too fast")
    assert standings(campaign) == {"excluded": 2}
    assert list(broken_rules(campaign)) == []
    exclusions.lift(exclusion, by=researcher)
    assert standings(campaign) == {"counted": 2}
    assert list(broken_rules(campaign)) == []


def test_a_known_item_in_hand_goes_to_nobody(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1)
    item = known_item(campaign, "qualification")
    rater, other = (made_rater(campaign, qualification="pending") for _ in range(2))
    slot = assignment.claim(campaign, rater)
    assert slot is not None
    expire(slot)
    exclusion = exclusions.exclude(campaign, rater, by=researcher, reason="too fast")
    assert not Slot.objects.filter(item=item).exists()
    theirs = assignment.claim(campaign, other)
    assert theirs is not None
    assert (theirs.item, theirs.number) == (item, other.pk)
    exclusions.lift(exclusion, by=researcher)
    again = assignment.claim(campaign, rater)
    assert again is not None
    assert again.item == item


def test_surplus_stays_surplus(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    slot = assignment.claim(campaign, first)
    assert slot is not None
    expire(slot)
    answer(campaign, second)
    assignment.submit(slot.token, verdict(), rater=first, client_id=uuid4())  # type: ignore[arg-type]
    exclusions.lift(exclusions.exclude(campaign, first, by=researcher, reason="too fast"), by=researcher)
    assert standings(campaign) == {"counted": 1, "surplus": 1}


def test_excluding_from_a_closed_campaign_counts_at_once_and_opens_slots_for_when_it_is_opened(
    researcher: User,
) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    first, second = made_rater(campaign), made_rater(campaign)
    answer(campaign, first)
    Campaign.objects.filter(pk=campaign.pk).update(status="closed")
    exclusions.exclude(campaign, first, by=researcher, reason="too fast")
    assert standings(campaign) == {"excluded": 1}
    assert assignment.claim(campaign, second) is None
    Campaign.objects.filter(pk=campaign.pk).update(status="open")
    assert assignment.claim(campaign, second) is not None


def test_excluding_is_refused_with_what_to_do(researcher: User) -> None:
    campaign = made_campaign(researcher)
    rater = made_rater(campaign)
    with pytest.raises(UserError, match="needs a reason"):
        exclusions.exclude(campaign, rater, by=researcher, reason="  ")
    with pytest.raises(UserError, match="takes no part in"):
        exclusions.exclude(campaign, made_rater(), by=researcher, reason="too fast")
    exclusion = exclusions.exclude(campaign, rater, by=researcher, reason="too fast")
    with pytest.raises(UserError, match=r"excluded from .* already"):
        exclusions.exclude(campaign, rater, by=researcher, reason="too fast")
    exclusions.lift(exclusion, by=researcher)
    with pytest.raises(UserError, match="lifted already"):
        exclusions.lift(exclusion, by=researcher)
    assert Exclusion.objects.count() == 1


def test_another_campaign_of_the_rater_is_not_touched(researcher: User) -> None:
    campaign, other = made_campaign(researcher), made_campaign(researcher)
    rater = made_rater(campaign, other)
    answer(other, rater)
    exclusions.exclude(campaign, rater, by=researcher, reason="too fast")
    assert standings(other) == {"counted": 1}
    assert assignment.claim(other, rater) is not None
