"""The pages on which researchers make campaigns, watch them and change their settings."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from django.test import Client

from rso_core.human_eval_power import prompts_needed
from tests.webapp.human_eval.comparisons import compared, finished_run
from tests.webapp.human_eval.made_campaigns import made_campaign
from tests.webapp.human_eval.rating import body
from tests.webapp.human_eval.typed import typed
from tests.webapp.made_runs import imported, signed_in
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.forms_campaigns import template_values
from webapp.human_eval.models import Campaign, Item, System
from webapp.runs.models import Run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("made_store")]


@pytest.fixture
def page(researcher: User) -> Client:
    imported(researcher)
    return signed_in(researcher)


@pytest.fixture
def run(page: Client, researcher: User) -> Run:
    return finished_run(researcher)


def test_a_draft_is_made_from_the_form_and_opened(page: Client, run: Run, researcher: User) -> None:
    response = page.post("/campaigns/new/", typed(run, label_1="Ours"))

    campaign = Campaign.objects.get()
    assert response["Location"] == f"/campaigns/{campaign.pk}/"
    assert list(campaign.systems.values_list("label", "kind")) == [
        ("Ours", "policy"), (f"SFT of {run.name}", "sft"), ("SFT target", "target"),
    ]  # fmt: skip
    assert (campaign.task, campaign.replicas, campaign.lease_seconds) == ("summarization", 3, 1800)
    assert campaign.anchors["5"].startswith("Excellent")
    shown = body(page.get(campaign.get_absolute_url()))
    assert "Everything is there: 6 tasks" in shown

    page.post(f"/campaigns/{campaign.pk}/move/", {"to": "open"})

    campaign.refresh_from_db()
    assert campaign.status == "open"
    assert campaign.slots.count() == 18
    assert AuditEntry.objects.filter(kind="campaign").values_list("action", flat=True).count() == 2


def test_the_form_begins_with_the_texts_of_a_template_a_run_or_a_campaign(
    page: Client, run: Run, researcher: User
) -> None:
    assert "Rate replies of an assistant" in body(page.get("/campaigns/new/?template=dialogue"))
    of_run = body(page.get(f"/campaigns/new/?run={run.pk}"))
    assert f'value="policy:{run.pk}" selected' in of_run
    campaign, _ = compared(researcher, run, quality_question="How true is it?")
    clone = body(page.get(f"/campaigns/new/?clone={campaign.pk}"))
    assert "How true is it?" in clone
    assert "Which policy? (copy)" in clone
    assert f'value="sft:{run.pk}" selected' in clone


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ""}, "This field is required"),
        ({"scale_min": 5, "scale_max": 5}, "The scale must end above where it begins, got 5 to 5"),
        ({"scale_max": 11}, "less than or equal to 10"),
        ({"anchors": "good"}, "“good” has no number in front"),
        ({"anchors": "1: a\n1: b"}, "Point 1 has words twice"),
        ({"anchors": "7: a"}, "Point 7 is not on the scale, which goes from 1 to 5"),
        ({"replicas": 0}, "greater than or equal to 1"),
        ({"check_percent": 11}, "less than or equal to 10"),
        ({"dataset": 0}, "Select a valid choice"),
        ({"system_1": "policy:0"}, "Select a valid choice"),
        (
            {"system_1": "file", "system_2": "file", "label_1": "a", "label_2": "a"},
            "two systems are called &#x27;a&#x27;",
        ),
        ({"num_items": 5000}, "5000 are needed"),
        ({"num_items": -1}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_refused_beside_its_field_and_nothing_typed_is_lost(
    page: Client, changed: Mapping[str, Any], message: str
) -> None:
    response = page.post("/campaigns/new/", typed(**(dict(changed) | {"title": "My own title"} | dict(changed))))
    assert response.status_code == 200
    assert message in body(response)
    assert "My own title" in body(response)
    assert not Campaign.objects.exists()


def test_two_systems_are_compared_against_the_one_that_was_chosen(page: Client) -> None:
    page.post("/campaigns/new/", typed(reference="1"))
    assert Campaign.objects.get().way == 2
    assert list(System.objects.values_list("label", "is_reference")) == [("Uploaded 1", True), ("SFT target", False)]


def test_the_power_table_follows_prompts_and_raters(page: Client) -> None:
    shown = re.sub(r"\s+", " ", body(page.get("/campaigns/new/power/?num_items=200&replicas=3&system_3=target")))
    assert "200 prompts with 3 raters each" in shown
    assert "<b>200</b>" in shown
    other = body(page.get("/campaigns/new/power/?num_items=17&replicas=5"))
    assert "<b>17</b>" in other
    assert "2 systems" in other
    assert "To see a gap of 8 % with a chance of 80 %" in shown
    needed = [prompts_needed(gap, 3) for gap in (0.05, 0.10, 0.15)]
    foot = re.findall(r"<td class=\"num\">([\d,]+)</td>", shown.partition("<tfoot>")[2])
    assert foot == [f"{prompts:,}" for prompts in needed]
    four = body(page.get("/campaigns/new/power/?num_items=200&replicas=3&system_3=target&gap=4"))
    assert f"<b>{prompts_needed(0.04, 3):,}</b> prompts are needed" in four
    for odd in (
        "gap=0",
        "gap=-2",
        "gap=x",
        "gap=100",
        "num_items=0",
        "num_items=1&replicas=0",
        "num_items=-3&replicas=x",
        "num_items=99999999999999",
    ):
        assert page.get(f"/campaigns/new/power/?{odd}").status_code == 200


def test_the_list_is_searched_sorted_and_filtered(page: Client, researcher: User) -> None:
    assert "No campaign yet" in body(page.get("/campaigns/"))
    for name, status in (("Apples", "open"), ("Pears", "draft"), ("Plums", "closed")):
        made_campaign(researcher, items=2, name=name, status=status)
    names = re.compile(r">(Apples|Pears|Plums)<")
    assert names.findall(body(page.get("/campaigns/?sort=name"))) == ["Apples", "Pears", "Plums"]
    assert names.findall(body(page.get("/campaigns/?sort=-name"))) == ["Plums", "Pears", "Apples"]
    assert names.findall(body(page.get("/campaigns/?state=closed"))) == ["Plums"]
    assert names.findall(body(page.get("/campaigns/?q=pea"))) == ["Pears"]
    assert "0 / 6" in body(page.get("/campaigns/?q=apples"))


def test_the_status_is_there_for_programs(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=4)
    found = page.get(f"/campaigns/{campaign.pk}/status.json").json()
    assert found["status"] == "open"
    assert (found["progress"]["wanted"], found["progress"]["submitted"], found["missing"]) == (12, 0, [])


def test_settings_are_changed_and_fixed_ones_are_not(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    address = f"/campaigns/{campaign.pk}/settings/"
    values = template_values("summarization") | {"name": "Renamed", "label_0": "A", "label_1": "B", "label_2": "C"}
    values |= {"max_items_per_rater": 5, "consent": "Agree?"}

    first = page.post(address, values, follow=True)

    assert "the questions" not in body(first)
    campaign.refresh_from_db()
    assert (campaign.name, campaign.max_items_per_rater, campaign.consent_version) == ("Renamed", 5, 2)
    assert campaign.quality_question == "How good is this summary?"
    assert campaign.anchors == {"1": "Poor", "3": "Fair", "5": "Excellent"}, "open: fixed"
    assert list(campaign.systems.values_list("label", flat=True)) == ["A", "B", "C"]
    fewer = page.post(address, values | {"replicas": 2})
    assert "can only be raised once a campaign was opened" in body(fewer)
    page.post(address, values | {"replicas": 4})
    assert campaign.slots.count() == 8


def test_a_shared_campaign_is_seen_and_not_changed_by_others(researcher: User, admin: User) -> None:
    campaign = made_campaign(admin, items=2, status="draft")
    client = signed_in(researcher)
    base = f"/campaigns/{campaign.pk}/"
    assert client.get(base).status_code == 404
    signed_in(admin).post(f"{base}share/", {"shared": "1"})
    assert client.get(base).status_code == 200
    assert "Open</button>" not in body(client.get(base))
    for path in ("settings/", "access/", "known/"):
        assert client.get(base + path).status_code == 403
    for path in (
        "move/",
        "share/",
        "remove/",
        "responses/leave-out/",
        "access/invite/",
        "access/panel/",
        "access/panel/renew/",
    ):
        assert client.post(base + path, {"to": "open"}).status_code == 403
    campaign.refresh_from_db()
    assert (campaign.status, campaign.shared) == ("draft", True)


def test_raters_see_none_of_it(rater: User, admin: User) -> None:
    campaign = made_campaign(admin, items=2, shared=True)
    client = signed_in(rater)
    for path in ("", "new/", "new/power/", f"{campaign.pk}/", f"{campaign.pk}/live/", f"{campaign.pk}/status.json"):
        assert client.get(f"/campaigns/{path}").status_code == 403
    assert not Item.objects.filter(kind="check").exists()
