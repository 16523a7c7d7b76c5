"""The pages on which researchers make and run campaigns."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client

from tests.webapp.human_eval.comparisons import compared, finished_run, work_on
from tests.webapp.human_eval.made_campaigns import made_campaign
from tests.webapp.made_runs import imported, signed_in
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.forms_campaigns import template_values
from webapp.human_eval.models import Campaign, Invitation, Item, PanelLink, Response, System
from webapp.human_eval.rater_access import token_hash, usable_invitation, usable_panel_link
from webapp.human_eval.services import open_campaign
from webapp.runs.models import Dataset, Run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("made_store")]


@pytest.fixture
def page(researcher: User) -> Client:
    imported(researcher)
    return signed_in(researcher)


@pytest.fixture
def run(page: Client, researcher: User) -> Run:
    return finished_run(researcher)


def typed(run: Run | None = None, **changed: Any) -> dict[str, Any]:
    """Return what somebody types into the form of a new campaign."""
    first = {
        "system_1": f"policy:{run.pk}" if run else "file",
        "system_2": f"sft:{run.pk}" if run else "target",
        "system_3": "target" if run else "",
    }
    values = template_values("summarization") | {
        "name": "Which policy?",
        "dataset": Dataset.objects.get(name="targets").pk,
        "num_items": 6,
        "reference": "2",
        "max_items_per_rater": "",
        **first,
    }
    return values | changed


def body(response: HttpResponse) -> str:
    return response.content.decode()


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
    for odd in ("num_items=0", "num_items=1&replicas=0", "num_items=-3&replicas=x", "num_items=99999999999999"):
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


def test_responses_come_from_a_file_that_answers_every_prompt(page: Client) -> None:
    page.post("/campaigns/new/", typed())
    campaign = Campaign.objects.get()
    assert "Upload the responses of Uploaded 1: 6 of 6 are missing." in body(page.get(campaign.get_absolute_url()))
    prompts = [json.loads(line) for line in b"".join(page.get(f"/campaigns/{campaign.pk}/prompts.jsonl")).splitlines()]
    assert len(prompts) == 6

    def upload(lines: list[dict[str, str]]) -> HttpResponse:
        text = "\n".join(json.dumps(line) for line in lines)
        file = SimpleUploadedFile("theirs.jsonl", text.encode())
        return page.post(f"/campaigns/{campaign.pk}/systems/0/upload/", {"file": file}, follow=True)

    answers = [{"prompt_id": row["prompt_id"], "response": f"On {row['prompt_id']}"} for row in prompts]
    some = body(upload(answers[:4]))
    assert "2 prompts have no response in the file" in some
    assert prompts[5]["prompt_id"] in some
    wrong = body(upload([{"prompt_id": "x", "response": ""}, {"prompt": "?"}]))
    assert "line 2: the column `response` is missing" in wrong
    assert "none of the file" in body(upload([{"prompt_id": "other", "response": "a"}]))
    assert Response.objects.filter(system__index=0).count() == 4, "a bad file changes nothing"
    full = body(upload([*answers, {"prompt_id": "other", "response": "not needed"}]))
    assert "1 of the file answer prompts that are not in this campaign" in full
    assert "Everything is there" in full


def test_tasks_without_a_response_can_be_left_out_of_a_draft(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=5, status="draft")
    Response.objects.filter(item__index__in=[1, 3], index=2).delete()
    shown = body(page.get(f"/campaigns/{campaign.pk}/responses/?show=missing"))
    assert "2 tasks in which a response is missing" in shown

    page.post(f"/campaigns/{campaign.pk}/responses/leave-out/", {"show": "missing", "item": "1"})
    assert sorted(campaign.items.values_list("index", flat=True)) == [0, 2, 3, 4]
    page.post(f"/campaigns/{campaign.pk}/responses/leave-out/", {"show": "missing"})

    assert sorted(campaign.items.values_list("index", flat=True)) == [0, 2, 4]
    campaign.refresh_from_db()
    assert campaign.num_items == 3
    assert AuditEntry.objects.filter(action="left out").count() == 2


def test_doubtful_responses_are_counted_and_shown(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=4, status="draft")
    first = campaign.items.get(index=0)
    first.responses.filter(index=0).update(text="As ChatGPT I would say no.", named="ChatGPT")
    campaign.items.get(index=1).responses.filter(index=1).update(text="")
    campaign.items.get(index=2).responses.filter(index__in=[1, 2]).update(text="twins")
    shown = re.sub(r"\s+", " ", body(page.get(campaign.get_absolute_url())))
    assert "1 of 12 responses (8.3%) name a system or vendor" in shown
    assert "1 responses are empty" in shown
    assert "1 of 4 tasks have equal responses" in shown
    for doubt, text in (("named", "names ChatGPT"), ("empty", "(empty)"), ("identical", "twins")):
        found = body(page.get(f"/campaigns/{campaign.pk}/responses/?show={doubt}"))
        assert "1 task in which" in found
        assert text in found


def test_nothing_is_left_out_of_an_opened_campaign(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=3)
    Response.objects.filter(item__index=1, index=1).update(text="")
    response = page.post(f"/campaigns/{campaign.pk}/responses/leave-out/", {"show": "empty"}, follow=True)
    assert "has been opened: its tasks stay" in body(response)
    assert campaign.items.count() == 3


def test_invitations_are_shown_once_and_kept_as_fingerprints(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    shown = page.post(f"/campaigns/{campaign.pk}/access/invite/", {"count": 1, "notes": "Ada\nBo\n", "days": 3})
    assert "no-store" in shown["Cache-Control"]
    tokens = re.findall(r"<code>http://testserver/rate/invitation/([\w-]+)/</code>", body(shown))
    assert len(set(tokens)) == 2
    assert {item.token_hash for item in Invitation.objects.all()} == {token_hash(token) for token in tokens}
    assert set(Invitation.objects.values_list("note", flat=True)) == {"Ada", "Bo"}
    again = body(page.get(f"/campaigns/{campaign.pk}/access/"))
    assert "Ada" in again
    assert not any(token in again for token in tokens)
    assert not AuditEntry.objects.filter(details__icontains=tokens[0]).exists()

    bo = Invitation.objects.get(note="Bo")
    page.post(f"/campaigns/{campaign.pk}/access/{bo.pk}/revoke/")

    usable = [token for token in tokens if usable_invitation(token)]
    assert len(usable) == 1
    assert "revoked" in body(page.get(f"/campaigns/{campaign.pk}/access/"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0, "days": 14}, "greater than or equal to 1"),
        ({"count": 201, "days": 14}, "less than or equal to 200"),
        ({"count": 1, "days": 400}, "less than or equal to 365"),
        ({"count": 1, "days": 14, "notes": "x" * 121}, "is longer than 120 characters"),
        ({"count": 1, "days": 14, "notes": "a\n" * 201}, "At most 200 at once"),
    ],
)
def test_odd_invitations_are_refused(page: Client, researcher: User, values: dict[str, Any], message: str) -> None:
    campaign = made_campaign(researcher, items=2)
    assert message in body(page.post(f"/campaigns/{campaign.pk}/access/invite/", values))
    assert not Invitation.objects.exists()


PROLIFIC = {
    "id_parameter": "PROLIFIC_PID", "session_parameter": "SESSION_ID", "completion_code": "C1ABC", "active": "on",
    "return_url": "https://app.prolific.com/submissions/complete?cc=C1ABC",
}  # fmt: skip


def test_the_panel_link_is_shown_once_and_can_be_renewed(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    address = re.compile(r'<code id="panel-address">http://testserver/rate/panel/([\w-]+)/\?([^<]+)</code>')

    found = address.search(body(page.post(f"/campaigns/{campaign.pk}/access/panel/", PROLIFIC)))

    assert found is not None
    assert found[2] == "PROLIFIC_PID={{%PROLIFIC_PID%}}&amp;SESSION_ID={{%SESSION_ID%}}"
    link = usable_panel_link(found[1])
    assert link is not None
    assert (link.completion_code, link.campaign) == ("C1ABC", campaign)
    again = page.post(f"/campaigns/{campaign.pk}/access/panel/", PROLIFIC | {"completion_code": "NEW"}, follow=True)
    assert address.search(body(again)) is None
    assert PanelLink.objects.get().completion_code == "NEW"
    assert usable_panel_link(found[1]) is not None

    renewed = address.search(body(page.post(f"/campaigns/{campaign.pk}/access/panel/renew/")))

    assert renewed is not None
    assert usable_panel_link(found[1]) is None
    assert usable_panel_link(renewed[1]) is not None
    off = {name: value for name, value in PROLIFIC.items() if name != "active"}
    page.post(f"/campaigns/{campaign.pk}/access/panel/", off)
    assert usable_panel_link(renewed[1]) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"id_parameter": "a b"}, "A parameter is a name of letters"),
        ({"id_parameter": ""}, "This field is required"),
        ({"return_url": "javascript:alert(1)"}, "Enter a valid URL"),
        ({"return_url": "ftp://example.org/"}, "must begin with https://"),
    ],
)
def test_odd_panel_settings_are_refused(page: Client, researcher: User, changed: dict[str, str], message: str) -> None:
    campaign = made_campaign(researcher, items=2)
    assert message in body(page.post(f"/campaigns/{campaign.pk}/access/panel/", PROLIFIC | changed))
    assert not PanelLink.objects.exists()


def known(**changed: Any) -> dict[str, Any]:
    values = {"kind": "check", "prompt": "What is two and two?", "best": "2", "feedback": "It is four."}
    return values | {f"response_{place}": f"It is {place + 2}." for place in (1, 2, 3)} | changed


def test_known_tasks_are_added_by_hand_and_removed(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2, status="draft")
    address = f"/campaigns/{campaign.pk}/known/"
    page.post(address, known())
    page.post(address, known(kind="qualification", best="same"))
    check, qualification = campaign.items.exclude(kind="main").order_by("index")
    assert (check.expected_choice, check.expected_same, check.responses.count()) == (1, False, 3)
    assert (qualification.expected_choice, qualification.expected_same) == (None, True)
    assert check.responses.filter(system=None).count() == 3
    assert "It is four." in body(page.get(address))
    assert "required" in body(page.post(address, known(response_3="")))

    page.post(f"{address}{check.index}/remove/")

    assert list(campaign.items.exclude(kind="main")) == [qualification]
    open_campaign(campaign, by=researcher)
    assert set(campaign.slots.values_list("item__kind", flat=True)) == {"main"}


def test_a_preference_pair_is_offered_as_a_known_task(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    pairs = Dataset.objects.get(name="preferences")
    first = body(page.get(f"/campaigns/{campaign.pk}/known/?dataset={pairs.pk}&number=0"))
    assert "The author asks whom to turn to" in first
    assert first != body(page.get(f"/campaigns/{campaign.pk}/known/?dataset={pairs.pk}&number=1"))
    for odd in ("dataset=0", "dataset=x", f"dataset={pairs.pk}&number=x", f"dataset={pairs.pk}&number=99999"):
        assert page.get(f"/campaigns/{campaign.pk}/known/?{odd}").status_code == 200


def test_progress_of_sampling_its_failure_and_retry_are_on_the_page(page: Client, researcher: User) -> None:
    run = finished_run(researcher, answered=[])
    campaign, _ = compared(researcher, run)
    shown = body(page.get(campaign.get_absolute_url()))
    assert "Waiting for a worker of the gpu queue" in shown
    stage = campaign.systems.get(index=0).stage
    assert stage is not None
    type(stage).objects.filter(pk=stage.pk).update(status="failed", message="the model computes NaN")
    shown = body(page.get(f"/campaigns/{campaign.pk}/live/?was=draft&draft=1"))
    assert "the model computes NaN" in shown
    assert "data-poll-reload" not in shown
    page.post(f"/campaigns/{campaign.pk}/systems/0/retry/")
    work_on(stage)
    after = body(page.get(f"/campaigns/{campaign.pk}/live/?was=draft&draft=1"))
    assert "data-poll-reload" in after
    assert "6 / 6" in after


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
