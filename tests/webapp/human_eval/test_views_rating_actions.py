"""What else a rater does on a task, by plain forms and as the script asks: skip, flag, heartbeat, the next task."""

from uuid import uuid4

import pytest
from django.test import Client

from tests.webapp.human_eval.made_campaigns import made_campaign, made_rater
from tests.webapp.human_eval.rating import SCORES, body, hidden, url_of
from webapp.accounts.models import User
from webapp.human_eval.models import (
    Answer,
    Campaign,
    Flag,
    Skip,
    Slot,
)

pytestmark = pytest.mark.django_db


def test_skipping_needs_a_preset_reason_and_brings_another_task(page: Client, campaign: Campaign) -> None:
    first = hidden(page.get(url_of(campaign)))
    shown = body(page.post(url_of(campaign, "skip/"), first | {"skip_reason": "nonsense"}, follow=True))
    assert "The reason to skip must be one of" in shown
    page.post(url_of(campaign, "skip/"), first | {"skip_reason": "expertise"})
    assert Skip.objects.get().reason == "expertise"
    assert hidden(page.get(url_of(campaign)))["token"] != first["token"]


def test_a_flag_names_the_response_by_index_and_keeps_the_draft(page: Client, campaign: Campaign) -> None:
    first = hidden(page.get(url_of(campaign)))
    order = Slot.objects.get(token=first["token"]).order
    flagging = {
        "flag_reason": "names_system",
        "flag_response": "3",
        "flag_note": "It signs.",
        "q1": "4",
        "reason": "so far",
    }
    shown = body(page.post(url_of(campaign, "flag/"), first | flagging, follow=True))
    assert "Flagged, thank you." in shown
    flag = Flag.objects.get()
    assert (flag.reason, flag.response, flag.note) == ("names_system", int(order[2]), "It signs.")
    assert 'name="q1" value="4" required checked' in shown
    assert ">so far</textarea>" in shown


def test_a_heartbeat_keeps_time_draft_and_lease(page: Client, campaign: Campaign) -> None:
    token = hidden(page.get(url_of(campaign)))["token"]
    Slot.objects.filter(token=token).update(shown="2020-01-01T00:00:00Z", lease_expires="2020-01-01T00:00:00Z")
    sent = {"token": token, "active_ms": "4000", "drafted": "1", "q2": "3", "best": "0", "sneaky": "x"}
    reply = page.post(url_of(campaign, "heartbeat/"), sent).json()
    assert reply["held"]
    assert 1790 < reply["seconds"] <= 1800
    slot = Slot.objects.get(token=token)
    assert slot.active_ms == 4000
    assert slot.draft == {"q2": "3", "best": "0"}
    page.post(url_of(campaign, "heartbeat/"), {"token": token, "active_ms": "-5"})
    page.post(url_of(campaign, "heartbeat/"), {"token": token, "active_ms": "99999999999999999999"})
    assert Slot.objects.get(token=token).active_ms == 4000
    assert page.post(url_of(campaign, "heartbeat/"), {"token": str(uuid4())}).json() == {"held": False, "seconds": 0}
    assert page.post(url_of(campaign, "heartbeat/"), {"token": "nonsense"}).status_code == 404


def test_the_next_task_is_fetched_under_its_own_lease(page: Client, campaign: Campaign) -> None:
    token = hidden(page.get(url_of(campaign)))["token"]
    ahead = [page.post(url_of(campaign, "ahead/"), {"token": token}) for _ in range(2)]
    assert hidden(ahead[0])["token"] == hidden(ahead[1])["token"] != token
    assert "Task 2 " in body(ahead[0])
    assert "<html" not in body(ahead[0])
    assert Slot.objects.filter(status="leased").count() == 2
    page.post(url_of(campaign), {"token": token, "client_id": str(uuid4())} | SCORES)
    assert hidden(page.get(url_of(campaign)))["token"] == hidden(ahead[0])["token"]


def test_nothing_is_fetched_ahead_when_nothing_is_left(client: Client, researcher: User, rater: User) -> None:
    campaign = made_campaign(researcher, items=1)
    made_rater(campaign, user=rater)
    client.force_login(rater)
    token = hidden(client.get(url_of(campaign)))["token"]
    assert client.post(url_of(campaign, "ahead/"), {"token": token}).status_code == 204


def test_a_script_hears_what_became_of_an_answer(page: Client, campaign: Campaign) -> None:
    sent = hidden(page.get(url_of(campaign))) | SCORES
    json = {"headers": {"Accept": "application/json"}}
    reply = page.post(url_of(campaign), sent | {"q1": ""}, **json)
    assert reply.status_code == 422
    assert "Response 1 needs a score" in reply.json()["say"]
    assert page.post(url_of(campaign), sent | {"q2": "5", "q1": "1"}, **json).json()["asks"]
    assert page.post(url_of(campaign), sent, **json).json() == {"ok": True, "say": "Saved.", "go": ""}
    assert page.post(url_of(campaign), sent, **json).json()["ok"]
    assert not page.post(url_of(campaign), sent | {"token": str(uuid4())}, **json).json()["ok"]
    assert Answer.objects.count() == 1
