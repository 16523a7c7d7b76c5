"""The rating page without a script: every journey by plain forms. Stored values are read from the database."""

import re
from typing import Any
from uuid import uuid4

import pytest
from django.http import HttpResponse
from django.test import Client

from tests.webapp.human_eval.made_campaigns import answer, expire, known_item, made_campaign, made_rater, verdict
from webapp.accounts.models import User
from webapp.human_eval.assignment import claim
from webapp.human_eval.exclusions import exclude
from webapp.human_eval.models import (
    Answer,
    AnswerVersion,
    Campaign,
    Flag,
    Item,
    Participation,
    Rater,
    Response,
    Skip,
    Slot,
)

pytestmark = pytest.mark.django_db
SCORES = {"q1": "5", "q2": "3", "q3": "1", "best": "1"}


@pytest.fixture
def campaign(researcher: User) -> Campaign:
    return made_campaign(researcher)


@pytest.fixture
def someone(campaign: Campaign, rater: User) -> Rater:
    return made_rater(campaign, user=rater)


@pytest.fixture
def page(client: Client, someone: Rater, rater: User) -> Client:
    client.force_login(rater)
    return client


def hidden(response: HttpResponse) -> dict[str, str]:
    """Return the hidden fields of the task's form."""
    form = response.content.decode().partition('id="task"')[2]
    found = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    return {name: found[name] for name in ("token", "client_id", "active_ms", "asked")}


def fill(client: Client, url: str, **values: str) -> HttpResponse:
    """Load the page, fill its form in and send it."""
    return client.post(url, hidden(client.get(url)) | SCORES | values)


def url_of(campaign: Campaign, page: str = "") -> str:
    return f"/rate/{campaign.pk}/{page}"


def body(response: HttpResponse) -> str:
    return response.content.decode()


def test_a_rater_finds_open_campaigns_on_home_and_starts_one(client: Client, rater: User, campaign: Campaign) -> None:
    client.force_login(rater)
    shown = body(client.get("/", follow=True))
    assert "Rate summaries" in shown
    assert campaign.name not in shown
    assert "Start" in body(client.get(url_of(campaign)))
    assert not Participation.objects.exists()  # looking is not taking part
    assert client.post(url_of(campaign, "join/"))["Location"] == url_of(campaign)
    shown = body(client.get(url_of(campaign)))
    assert 'Task 1 <span class="about">of about 6</span>' in shown
    assert Participation.objects.get().rater.user == rater


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


def test_nothing_is_preselected(page: Client, campaign: Campaign) -> None:
    shown = body(page.get(url_of(campaign)))
    assert "checked" not in shown.partition('id="task"')[2].partition("</form>")[0]


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


def test_the_ends_are_told_apart(client: Client, researcher: User, rater: User) -> None:
    campaign = made_campaign(researcher, items=2, replicas=1, max_items_per_rater=2)
    me = made_rater(campaign, user=rater)
    client.force_login(rater)
    other = made_rater(campaign)
    theirs = claim(campaign, other)
    assert theirs is not None
    fill(client, url_of(campaign))
    shown = body(client.get(url_of(campaign)))
    assert "Others are working on the rest: 1 task is in their hands" in shown
    assert 'hx-trigger="every 15s"' in shown
    assert "Others are working" in body(client.get(url_of(campaign, "waiting/")))
    expire(theirs)
    assert client.get(url_of(campaign, "waiting/"))["HX-Redirect"] == url_of(campaign)
    fill(client, url_of(campaign))
    assert "You have rated all you may" in body(client.get(url_of(campaign)))
    assert Participation.objects.get(rater=me).finished is not None
    Campaign.objects.update(max_items_per_rater=None)
    assert "All done" in body(client.get(url_of(campaign)))
    for status, words in (("paused", "A break for everybody"), ("closed", "This has ended")):
        Campaign.objects.update(status=status)
        assert words in body(client.get(url_of(campaign)))
    Campaign.objects.update(status="open")
    exclude(campaign, me, by=researcher, reason="secret reason")
    shown = body(client.get(url_of(campaign)))
    assert "You cannot go on here" in shown
    assert "secret reason" not in shown


def test_consent_is_asked_for_and_asked_again_when_it_changes(client: Client, researcher: User, rater: User) -> None:
    campaign = made_campaign(researcher, consent="We keep **this**.")
    client.force_login(rater)
    assert "We keep <strong>this</strong>." in body(client.get(url_of(campaign)))
    client.post(url_of(campaign, "join/"), {"consent_version": "1"})
    assert Participation.objects.get().consent_version == 1
    assert "Task 1" in body(client.get(url_of(campaign)))
    Campaign.objects.update(consent="We keep that.", consent_version=2)
    assert "We keep that." in body(client.get(url_of(campaign)))
    client.post(url_of(campaign, "join/"), {"consent_version": "1"})  # agreed to what stood there before
    assert Participation.objects.get().consent_version == 1
    client.post(url_of(campaign, "join/"), {"consent_version": "2"})
    assert Participation.objects.get().consent_version == 2
    assert Participation.objects.get().consented is not None


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


def test_a_two_way_campaign_shows_two_responses(client: Client, researcher: User, rater: User) -> None:
    campaign = made_campaign(researcher, way=2)
    made_rater(campaign, user=rater)
    client.force_login(rater)
    response = client.get(url_of(campaign))
    assert 'name="q3"' not in body(response)
    client.post(url_of(campaign), hidden(response) | {"q1": "2", "q2": "4", "best": "2"})
    given = Answer.objects.get()
    assert given.quality_2 is None
    assert given.choice == int(given.order[1])


def test_a_scale_to_ten_and_one_from_zero_are_offered(client: Client, researcher: User, rater: User) -> None:
    campaign = made_campaign(researcher, scale_min=0, scale_max=10)
    made_rater(campaign, user=rater)
    client.force_login(rater)
    fill(client, url_of(campaign), q1="10", q2="0", q3="7")
    given = Answer.objects.get()
    assert [getattr(given, f"quality_{index}") for index in given.order] == [10, 0, 7]


def test_a_dialogue_is_shown_as_turns(page: Client, campaign: Campaign) -> None:
    turns = [
        {"role": "user", "content": "Hi *there*"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    Item.objects.update(messages=turns)
    shown = body(page.get(url_of(campaign)))
    assert shown.count('<h2 class="turn-who">Person</h2>') == 2
    assert shown.count('<h2 class="turn-who">Assistant</h2>') == 1
    assert "Hi <em>there</em>" in shown


def test_pages_are_in_no_cache_and_have_no_etag(page: Client, campaign: Campaign) -> None:
    for path in ("/rate/", url_of(campaign), url_of(campaign, "waiting/"), url_of(campaign, "last/")):
        response: Any = page.get(path)
        assert response["Cache-Control"] == "no-store", path
        assert "ETag" not in response
        assert "Last-Modified" not in response


def test_long_realistic_texts_make_a_page_under_60_kb(page: Client, campaign: Campaign) -> None:
    paragraph = "The author moved in with two friends last year, and since then one of them has never paid on time. "
    Item.objects.update(prompt="\n\n".join([paragraph * 5] * 12))  # 6 KB: the longest TL;DR posts have 4
    Response.objects.update(text="\n\n".join(["- **First**: " + paragraph * 3] * 10))  # 3 KB each
    response = page.get(url_of(campaign))
    assert len(response.content) < 60_000


def test_texts_that_want_to_be_a_page_stay_text(page: Client, campaign: Campaign) -> None:
    attacks = [
        "<script>alert(1)</script>",
        "![p](https://tracker.example/a.png)",
        "[click](javascript:alert(1))",
        "<img src=x onerror=alert(1)>",
        "</pre></textarea></form><svg onload=alert(1)>",
        "```html\n<iframe src=//evil.example></iframe>\n```",
        "<https://evil.example>",
        "[a]: https://evil.example\n[a]",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        '" autofocus onfocus=alert(1) x="',
        "{{ campaign.name }}{% now 'Y' %}",
    ]
    text = "\n\n".join(attacks)
    Item.objects.update(prompt=text, messages=[{"role": "<b>user", "content": text}, {"role": "user", "content": text}])
    Response.objects.update(text=text)
    shown = body(page.get(url_of(campaign)))
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z][\w-]*)", shown)}
    assert not tags & {"img", "iframe", "object", "embed", "base", "audio", "video", "style"}
    assert shown.count("<script") == 2  # our own two files
    assert not re.search(r"<[^>]+\son\w+=", shown)
    assert not re.search(r"<[^>]+(?:href|src)=[\"']?(?:https?:|//|javascript:|data:)", shown)
    assert campaign.name not in shown
    assert shown.count("</form>") == 2  # the task's and the one that signs out


def test_campaigns_that_are_no_business_of_a_rater_are_not_there(client: Client, researcher: User, rater: User) -> None:
    client.force_login(rater)
    draft, closed = made_campaign(researcher, status="draft"), made_campaign(researcher, status="closed")
    playground = made_campaign(researcher, kind="playground")
    for campaign in (draft, closed, playground):
        assert client.get(url_of(campaign)).status_code == 404
        assert client.post(url_of(campaign, "join/")).status_code == 404
        assert str(campaign.pk) not in body(client.get("/rate/")).partition("<main")[2]
    assert not Participation.objects.exists()


def test_somebody_whose_account_is_deleted_in_the_middle_leaves_their_answers(
    page: Client, campaign: Campaign, rater: User, someone: Rater
) -> None:
    fill(page, url_of(campaign))
    page.get(url_of(campaign))
    rater.delete()
    assert page.get(url_of(campaign)).status_code == 302
    someone.refresh_from_db()
    assert someone.user is None
    assert Answer.objects.get().rater == someone
    assert verdict().choice == 0
