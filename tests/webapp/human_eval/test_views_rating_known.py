"""Practice and silent checks by plain forms."""

import re

import pytest
from django.test import Client

from tests.webapp.human_eval.made_campaigns import known_item, made_campaign, made_rater
from tests.webapp.human_eval.rating import SCORES, body, hidden, url_of
from webapp.accounts.models import User
from webapp.human_eval.models import (
    Answer,
    Participation,
    Slot,
)

pytestmark = pytest.mark.django_db


def test_practice_tasks_come_first_and_tell_what_was_expected(client: Client, researcher: User, rater: User) -> None:
    campaign = made_campaign(researcher, qualification_pass=1)
    known_item(campaign, "qualification", expected=2, feedback="The **third** says more.")
    made_rater(campaign, user=rater, qualification="pending")
    client.force_login(rater)
    response = client.get(url_of(campaign))
    assert "Practice task 1 <" in body(response)
    order = Slot.objects.get(item__kind="qualification").order
    place = order.index("2") + 1
    sent = hidden(response) | {"q1": "3", "q2": "3", "q3": "3", "best": str(place)}
    told = client.post(url_of(campaign), sent, follow=True)
    assert "As expected" in body(told)
    assert f"Response {place} is the best" in body(told)
    assert "The <strong>third</strong> says more." in body(told)
    assert Participation.objects.get().qualification == "passed"
    assert "Task 1 <" in body(client.get(url_of(campaign)))
    assert client.get(url_of(campaign, "last/")).status_code == 302  # marked, so it cannot be changed


def test_whoever_fails_the_practice_is_told_kindly_and_gets_nothing(
    client: Client, researcher: User, rater: User
) -> None:
    campaign = made_campaign(researcher, qualification_pass=1)
    known_item(campaign, "qualification", expected=None)
    made_rater(campaign, user=rater, qualification="pending")
    client.force_login(rater)
    told = body(client.post(url_of(campaign), hidden(client.get(url_of(campaign))) | SCORES, follow=True))
    assert "Something else was expected" in told
    assert "Thank you for trying" in body(client.get(url_of(campaign)))


def test_a_silent_check_looks_like_any_task(client: Client, researcher: User, rater: User) -> None:
    campaign = made_campaign(researcher, items=12, check_share=0.1)
    known_item(campaign, "check")
    made_rater(campaign, user=rater)
    client.force_login(rater)
    shapes = set()
    for _ in range(13):
        response = client.get(url_of(campaign))
        shown = body(response)
        shown = re.sub(r"Known answer \d\.|Answer \d to post \d+\.|Known post \d+|Post \d+: what now\?", "", shown)
        shown = re.sub(
            r"[0-9a-f-]{36}|Task \d+ |data-lease=\"\d+\"|value=\"\w{64}\"| open|<a [^>]*edit-last.*?</a>", "", shown
        )
        shapes.add(
            re.sub(
                r"Half of your tasks[^<]*|<p class=\"lede\"></p>|<ul class=\"messages\">.*?</ul>|\s+",
                "",
                shown,
                flags=re.DOTALL,
            )
        )
        client.post(url_of(campaign), hidden(response) | SCORES)
    assert Answer.objects.filter(item__kind="check").count() == 1
    assert len(shapes) == 1
