"""Answers by plain forms: complete, odd, sent twice, late, changed. Stored values are read from the database."""

import re
from uuid import uuid4

import pytest
from django.test import Client

from tests.webapp.human_eval.made_campaigns import answer, expire, made_campaign, made_rater
from tests.webapp.human_eval.rating import SCORES, body, fill, hidden, url_of
from webapp.accounts.models import User
from webapp.human_eval.assignment import claim
from webapp.human_eval.models import (
    Answer,
    AnswerVersion,
    Campaign,
    Flag,
    Participation,
    Rater,
    Skip,
    Slot,
)

pytestmark = pytest.mark.django_db


def test_answers_are_stored_by_response_index_wherever_the_responses_stood(page: Client, campaign: Campaign) -> None:
    for _ in range(6):
        response = page.get(url_of(campaign))
        places = re.findall(r'<div class="prose laid-out" dir="auto"><p>Answer (\d) to post', body(response))
        sent = {"q1": "2", "q2": "5", "q3": "4", "best": "2", "reason": " Because. "}
        assert page.post(url_of(campaign), hidden(response) | sent)["Location"] == url_of(campaign)
        given = Answer.objects.latest("pk")
        quality = (given.quality_0, given.quality_1, given.quality_2)
        assert [quality[int(index)] for index in places] == [2, 5, 4]
        assert (str(given.choice), given.same, given.reason) == (places[1], False, "Because.")
        assert (given.order, given.standing, given.contradicts) == ("".join(places), "counted", False)
    assert len(set(Answer.objects.values_list("order", flat=True))) > 2


def test_about_the_same_is_stored_as_no_choice(page: Client, campaign: Campaign) -> None:
    fill(page, url_of(campaign), best="0")
    given = Answer.objects.get()
    assert (given.choice, given.same) == (None, True)


def test_an_incomplete_form_says_what_is_missing_and_keeps_the_rest(page: Client, campaign: Campaign) -> None:
    response = page.get(url_of(campaign))
    sent = hidden(response) | {"q1": "4", "best": "2", "reason": "half done"}
    again = body(page.post(url_of(campaign), sent))
    assert "Response 2 needs a score from 1 to 5." in again
    assert "Response 3 needs a score from 1 to 5." in again
    assert "Response 1 needs" not in again
    assert 'name="q1" value="4" required checked' in again
    assert 'name="best" value="2" required checked' in again
    assert ">half done</textarea>" in again
    assert not Answer.objects.exists()
    # What was filled in is a draft now, and comes back on any device.
    assert Slot.objects.get(token=sent["token"]).draft == {"q1": "4", "best": "2", "reason": "half done"}
    assert 'name="q1" value="4" required checked' in body(page.get(url_of(campaign)))


@pytest.mark.parametrize(
    "values", [{"q1": "6"}, {"q2": "0"}, {"q3": "x"}, {"best": "4"}, {"best": ""}, {"client_id": "x"}]
)
def test_values_that_no_page_offers_are_refused(page: Client, campaign: Campaign, values: dict[str, str]) -> None:
    response = fill(page, url_of(campaign), **values)
    assert response.status_code == 200
    assert "Not saved yet" in body(response)
    assert not Answer.objects.exists()


def test_a_contradiction_is_asked_about_once_and_kept_with_a_note(page: Client, campaign: Campaign) -> None:
    asked = fill(page, url_of(campaign), q1="2", q2="5")
    assert 'id="contradiction" role="alert" tabindex="-1">' in body(asked)
    assert not Answer.objects.exists()
    page.post(url_of(campaign), hidden(asked) | SCORES | {"q1": "2", "q2": "5"})
    given = Answer.objects.get()
    assert given.contradicts
    assert given.choice == int(given.order[0])


def test_a_form_sent_twice_is_stored_once(page: Client, campaign: Campaign) -> None:
    sent = hidden(page.get(url_of(campaign))) | SCORES
    page.post(url_of(campaign), sent)
    shown = body(page.post(url_of(campaign), sent, follow=True))
    assert "It counts once." in shown
    assert Answer.objects.count() == 1
    assert not AnswerVersion.objects.exists()


def test_two_tabs_show_one_task_and_store_one_answer(page: Client, campaign: Campaign) -> None:
    first, second = (hidden(page.get(url_of(campaign))) for _ in range(2))
    assert first["token"] == second["token"]
    assert first["client_id"] != second["client_id"]
    page.post(url_of(campaign), first | SCORES)
    page.post(url_of(campaign), second | SCORES | {"reason": "another thought"})
    given = Answer.objects.get()
    assert given.reason == "another thought"
    assert AnswerVersion.objects.get().answer == given


def test_the_back_button_shows_the_task_in_hand_and_not_the_old_form(page: Client, campaign: Campaign) -> None:
    first = page.get(url_of(campaign))
    page.post(url_of(campaign), hidden(first) | SCORES)
    back = page.get(url_of(campaign))  # no-store: the browser asks again
    assert hidden(back)["token"] != hidden(first)["token"]
    assert "Task 2" in body(back)


def test_an_answer_after_its_lease_counts_while_nobody_else_has_the_task(page: Client, campaign: Campaign) -> None:
    sent = hidden(page.get(url_of(campaign))) | SCORES
    expire(*Slot.objects.filter(token=sent["token"]))
    assert "Saved." in body(page.post(url_of(campaign), sent, follow=True))
    assert Answer.objects.get().standing == "counted"


def test_late_work_is_kept_as_surplus_and_the_rater_is_told(client: Client, researcher: User, rater: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    made_rater(campaign, user=rater)
    client.force_login(rater)
    sent = hidden(client.get(url_of(campaign))) | SCORES
    expire(*Slot.objects.filter(token=sent["token"]))
    answer(campaign, made_rater(campaign))
    shown = body(client.post(url_of(campaign), sent | {"q1": "2"} | {"q2": "5", "asked": "1"}, follow=True))
    assert "Your answer is kept, but does not count: its time had run out" in shown
    assert sorted(Answer.objects.values_list("standing", flat=True)) == ["counted", "surplus"]


def test_what_was_filled_in_survives_a_lease_that_somebody_else_took(
    client: Client, researcher: User, rater: User
) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    made_rater(campaign, user=rater)
    client.force_login(rater)
    sent = hidden(client.get(url_of(campaign))) | {"q1": "2", "q2": "5", "q3": "1", "best": "1"}
    expire(*Slot.objects.filter(token=sent["token"]))
    claim(campaign, made_rater(campaign))
    asked = client.post(url_of(campaign), sent)
    assert 'name="q2" value="5" required checked' in body(asked)
    client.post(url_of(campaign), sent | {"asked": "1"})
    assert Answer.objects.get().standing == "surplus"


def test_a_token_of_somebody_else_stores_nothing(page: Client, campaign: Campaign) -> None:
    theirs = claim(campaign, made_rater(campaign))
    assert theirs is not None
    shown = body(
        page.post(url_of(campaign), SCORES | {"token": str(theirs.token), "client_id": str(uuid4())}, follow=True)
    )
    assert "This task is not yours any more" in shown
    for path in ("skip/", "flag/"):
        page.post(url_of(campaign, path), {"token": str(theirs.token), "skip_reason": "other", "flag_reason": "other"})
    assert not Answer.objects.exists()
    assert not Flag.objects.exists()
    assert not Skip.objects.exists()
    theirs.refresh_from_db()
    assert theirs.status == "leased"
    assert theirs.draft is None


def test_a_token_of_another_campaign_stores_nothing(page: Client, campaign: Campaign, researcher: User) -> None:
    other = made_campaign(researcher, way=2)
    rater = Rater.objects.get()
    Participation.objects.create(campaign=other, rater=rater, qualification="passed")
    slot = claim(other, rater)
    assert slot is not None
    sent = SCORES | {"token": str(slot.token), "client_id": str(uuid4())}
    assert "This task is not yours any more" in body(page.post(url_of(campaign), sent, follow=True))
    assert not Answer.objects.exists()


def test_the_last_answer_can_be_changed_and_what_it_was_is_kept(page: Client, campaign: Campaign) -> None:
    fill(page, url_of(campaign), reason="first thought")
    first = Answer.objects.get()
    url = url_of(campaign, "last/")
    shown = page.get(url)
    assert 'name="q1" value="5" required checked' in body(shown)
    assert 'name="best" value="1" required checked' in body(shown)
    assert ">first thought</textarea>" in body(shown)
    page.post(url, hidden(shown) | {"q1": "1", "q2": "1", "q3": "4", "best": "3", "reason": ""})
    changed = Answer.objects.get()
    assert changed.choice == int(first.order[2])
    assert getattr(changed, f"quality_{first.order[2]}") == 4
    assert AnswerVersion.objects.get().values["choice"] == first.choice


def test_only_the_last_answer_is_changed_there(page: Client, campaign: Campaign) -> None:
    url = url_of(campaign, "last/")
    assert page.get(url)["Location"] == url_of(campaign)  # nothing yet
    fill(page, url_of(campaign))
    old = hidden(page.get(url))
    fill(page, url_of(campaign))
    assert page.post(url, old | SCORES | {"best": "0"})["Location"] == url
    assert not AnswerVersion.objects.exists()
