"""How long a rater keeps a task: heartbeats, time of work, drafts, and whose token it is."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db.models import F

from rso_core.errors import UserError
from tests.webapp.human_eval.made_campaigns import (
    claimed,
    expire,
    send,
    verdict,
)
from webapp.human_eval import assignment
from webapp.human_eval.models import Campaign, Rater, Slot

pytestmark = pytest.mark.django_db


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
