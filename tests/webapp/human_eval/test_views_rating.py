"""The rating page without a script: what it shows, to whom, and how it ends. Stored values are read from the database."""

import re
from typing import Any

import pytest
from django.test import Client

from tests.webapp.human_eval.made_campaigns import expire, made_campaign, made_rater, verdict
from tests.webapp.human_eval.rating import body, fill, hidden, url_of
from webapp.accounts.models import User
from webapp.human_eval.assignment import claim
from webapp.human_eval.exclusions import exclude
from webapp.human_eval.models import (
    Answer,
    Campaign,
    Item,
    Participation,
    Rater,
    Response,
)

pytestmark = pytest.mark.django_db


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


def test_nothing_is_preselected(page: Client, campaign: Campaign) -> None:
    shown = body(page.get(url_of(campaign)))
    assert "checked" not in shown.partition('id="task"')[2].partition("</form>")[0]


def test_parts_that_tasks_share_follow_their_campaign(page: Client, campaign: Campaign, researcher: User) -> None:
    other = made_campaign(researcher, way=2, scale_min=2, scale_max=4, anchors={"2": "Bad & worse"})
    Participation.objects.create(campaign=other, rater=Rater.objects.get(), qualification="passed")
    for _ in range(2):  # made, and made before
        shown, others = body(page.get(url_of(campaign))), body(page.get(url_of(other)))
        assert shown.count('name="q1"') == 5
        assert re.findall(r'name="q1" value="(\d)"', others) == ["2", "3", "4"]
        assert "2 Bad &amp; worse" in others
        assert (shown.count('name="q3"'), others.count('name="q3"')) == (5, 0)
        for html, its in ((shown, campaign), (others, other)):
            assert f'formaction="{url_of(its, "flag/")}"' in html
            assert f'formaction="{url_of(its, "skip/")}"' in html
    Campaign.objects.filter(pk=other.pk).update(anchors={"2": "Awful"})
    assert "2 Awful" in body(page.get(url_of(other)))


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
        assert f'{url_of(campaign)}"' not in body(client.get("/rate/"))
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
