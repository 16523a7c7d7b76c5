"""Campaigns with everything in them, raters who may rate, and answers, for tests of whatever comes after."""

import random
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from django.db.models.functions import Now

from webapp.accounts.models import User
from webapp.human_eval import assignment
from webapp.human_eval.assignment import Outcome, Verdict
from webapp.human_eval.launching import make_slots
from webapp.human_eval.models import Answer, Campaign, Item, Participation, Rater, Response, Slot, System

ASKED = {
    "task": "summarization",
    "title": "Rate summaries",
    "quality_question": "How good is this summary?",
    "choice_question": "Which one is the best?",
    "anchors": {"1": "Poor", "3": "Fair", "5": "Excellent"},
    "instructions": "Read the **post** first.",
    "seed": 7,
}
LABELS = ("policy-rso-7b", "sft-baseline-7b", "target-human")  # what a rater must never see
_numbers = count(1)


def made_campaign(
    owner: User, *, items: int = 6, way: int = 3, replicas: int = 3, status: str = "open", **fields: Any
) -> Campaign:
    """Return a campaign whose responses are all there; with slots unless it is a draft."""
    fields = ASKED | {"name": f"Campaign {next(_numbers)}", "num_items": items} | fields
    campaign = Campaign.objects.create(owner=owner, way=way, replicas=replicas, **fields)
    systems = System.objects.bulk_create(
        System(campaign=campaign, index=index, label=LABELS[index], kind=System.Kind.FILE, upload_name=f"{index}.jsonl")
        for index in range(way)
    )
    made = Item.objects.bulk_create(
        Item(
            campaign=campaign,
            index=index,
            prompt=f"Post {index}: what now?",
            prompt_id=f"{index:016x}",
            root=f"r{index}",
        )
        for index in range(items)
    )
    Response.objects.bulk_create(
        Response(item=item, index=system.index, system=system, text=f"Answer {system.index} to post {item.index}.")
        for item in made
        for system in systems
    )
    if status != Campaign.Status.DRAFT:
        make_slots(campaign)
        Campaign.objects.filter(pk=campaign.pk).update(status=status, opened=Now())
    campaign.refresh_from_db()
    return campaign


def known_item(campaign: Campaign, kind: str = "check", *, expected: int | None = 0, feedback: str = "") -> Item:
    """Add a qualification or check item whose best response is `expected` (None: they are about the same)."""
    item = Item.objects.create(
        campaign=campaign,
        index=campaign.items.count(),
        kind=kind,
        prompt=f"Known post {campaign.items.count()}",
        expected_choice=expected,
        expected_same=expected is None,
        feedback=feedback,
        base_order="012"[: campaign.way],
    )
    Response.objects.bulk_create(
        Response(item=item, index=index, text=f"Known answer {index}.") for index in range(campaign.way)
    )
    return item


def made_rater(*campaigns: Campaign, user: User | None = None, qualification: str = "passed", **fields: Any) -> Rater:
    """Return somebody who takes part in these campaigns, has agreed, and has passed the qualification."""
    origin = Rater.Origin.ACCOUNT if user else Rater.Origin.INVITATION
    rater = Rater.objects.create(user=user, **({"origin": origin} | fields))
    for campaign in campaigns:
        Participation.objects.create(
            campaign=campaign,
            rater=rater,
            qualification=qualification,
            consent_version=campaign.consent_version,
            consented=Now(),
        )
    return rater


def verdict(way: int = 3, *, best: int | None = 0, reason: str = "") -> Verdict:
    """Return a verdict that does not contradict itself: the best has 5, the others 3; None: all have 3."""
    quality = tuple(5 if index == best else 3 for index in range(way))
    return Verdict(quality=quality, choice=best, same=best is None, reason=reason)


def drawn_verdict(rng: random.Random, way: int = 3) -> Verdict:
    """Return any verdict."""
    choice = rng.choice([None, *range(way)])
    return Verdict(quality=tuple(rng.randint(1, 5) for _ in range(way)), choice=choice, same=choice is None)


def answer(
    campaign: Campaign,
    rater: Rater,
    said: Verdict | None = None,
    *,
    best: int | None = 0,
    client_id: UUID | None = None,
    active_ms: int = 0,
) -> Answer:
    """Claim the rater's next task and answer it."""
    slot = assignment.claim(campaign, rater)
    assert slot is not None, assignment.standing(campaign, rater)
    said = said or verdict(campaign.way, best=best)
    given, _ = assignment.submit(slot.token, said, rater=rater, client_id=client_id or uuid4(), active_ms=active_ms)
    return given


def expire(*slots: Slot) -> None:
    """Let the leases of these slots run out."""
    Slot.objects.filter(pk__in=[slot.pk for slot in slots]).update(lease_expires="2020-01-01T00:00:00Z")


def claimed(campaign: Campaign, rater: Rater) -> tuple[Slot, UUID]:
    """Claim the rater's next task, which must be there; return it with its token."""
    slot = assignment.claim(campaign, rater)
    assert slot is not None
    assert slot.token is not None
    return slot, slot.token


def send(token: UUID, rater: Rater, said: Verdict | None = None, client: UUID | None = None) -> tuple[Answer, Outcome]:
    """Answer the task of a lease."""
    return assignment.submit(token, said or verdict(), rater=rater, client_id=client or uuid4())
