"""The pages of what a draft compares: systems, prompts, responses and the doubts about them."""

import json
import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client

from tests.webapp.human_eval.comparisons import compared, finished_run, work_on
from tests.webapp.human_eval.made_campaigns import made_campaign
from tests.webapp.human_eval.rating import body
from tests.webapp.human_eval.typed import typed
from tests.webapp.made_runs import imported, signed_in
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.models import Campaign, Response
from webapp.human_eval.services import open_campaign
from webapp.runs.models import Stage

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("made_store")]


@pytest.fixture
def page(researcher: User) -> Client:
    imported(researcher)
    return signed_in(researcher)


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
    assert "1 of 12 responses (8.3 %) names a system or vendor" in shown
    assert "1 response is empty" in shown
    assert "1 of 4 tasks has equal responses" in shown
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


def test_a_sampling_is_stopped_and_gone_on_with_on_the_page(page: Client, researcher: User) -> None:
    campaign, _ = compared(researcher, finished_run(researcher, answered=[]))
    base = f"/campaigns/{campaign.pk}/"
    assert "Stop sampling for RSO" in body(page.get(base))
    for index in (0, 1):
        stopped = page.post(f"{base}systems/{index}/stop/", follow=True)
        assert "was stopped. What is there stays" in body(stopped)
    assert Stage.objects.get(kind="responses").status == "stopped"
    assert body(page.get(base)).count("Sample them</button>") == 2
    assert "Nothing was being sampled" in body(page.post(f"{base}systems/0/stop/", follow=True))
    page.post(f"{base}systems/0/retry/")
    assert "Waiting for a worker of the gpu queue" in body(page.get(base))


def test_systems_and_prompts_of_a_draft_are_changed_on_a_page(page: Client, researcher: User) -> None:
    run = finished_run(researcher)
    campaign, _ = compared(researcher, run)
    address = f"/campaigns/{campaign.pk}/contents/"
    shown = body(page.get(address))
    assert f'value="policy:{run.pk}" selected' in shown
    names = ("system_1", "system_2", "system_3", "label_1", "dataset", "split", "num_items", "seed", "reference")
    values = {name: value for name, value in typed(run, label_1="Ours").items() if name in names} | {"seed": 1}

    changed = page.post(address, values | {"system_3": "", "reference": "1"}, follow=True)

    assert "was changed: 2 systems, 6 prompts." in body(changed)
    assert list(campaign.systems.values_list("label", "is_reference")) == [
        ("Ours", True),
        (f"SFT of {run.name}", False),
    ]
    assert "5000 are needed" in body(page.post(address, values | {"num_items": 5000}))
    assert "Systems and prompts</a>" in body(page.get(f"/campaigns/{campaign.pk}/settings/"))
    assert "changed systems and prompts of" in body(page.get(campaign.get_absolute_url())), "the history"

    open_campaign(campaign, by=researcher)

    refused = page.post(address, values, follow=True)
    assert "has been opened: its systems and prompts stay" in body(refused)
    assert campaign.systems.count() == 2
    assert "Systems and prompts</a>" not in body(page.get(campaign.get_absolute_url()))
