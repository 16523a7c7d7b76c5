"""Where responses come from: runs, datasets, earlier campaigns, and a worker who may be stopped."""

import pytest

from rso_core.errors import UserError
from tests.webapp.human_eval.comparisons import compared, finished_run, rows_of_split, said, work_on
from tests.webapp.made_runs import imported
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.campaign_page import system_rows
from webapp.human_eval.creation import remove_draft
from webapp.human_eval.launching import what_is_missing
from webapp.human_eval.models import Campaign, Response
from webapp.human_eval.responses import request_responses, retry_responses, stop_responses
from webapp.human_eval.services import open_campaign
from webapp.runs import jobs
from webapp.runs.failures import Failed
from webapp.runs.models import Run, Stage

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("made_store")]


@pytest.fixture
def run(researcher: User) -> Run:
    imported(researcher)
    return finished_run(researcher)


def texts(campaign: Campaign, index: int) -> dict[str, str]:
    found = Response.objects.filter(item__campaign=campaign, index=index).values_list("item__prompt_id", "text")
    return dict(found)


def test_what_a_run_has_answered_already_is_taken_from_there(run: Run, researcher: User) -> None:
    campaign, prompts = compared(researcher, run)

    rows = {row["prompt_id"]: row for row in rows_of_split()}
    assert texts(campaign, 0) == {
        p["prompt_id"]: said(rows[p["prompt_id"]], "generation_policy", run.name) for p in prompts.rows
    }
    assert texts(campaign, 1) == {
        p["prompt_id"]: said(rows[p["prompt_id"]], "generation_sft", run.name) for p in prompts.rows
    }
    assert texts(campaign, 2) == {p["prompt_id"]: p["target"] for p in prompts.rows}
    assert campaign.way == 3
    assert not Stage.objects.filter(kind="responses").exists()
    assert open_campaign(campaign, by=researcher) == 18


def test_only_prompts_without_a_response_are_sampled_and_by_one_stage(researcher: User) -> None:
    imported(researcher)
    run = finished_run(researcher, answered=range(3))
    campaign, _ = compared(researcher, run, num_items=8)

    stage = Stage.objects.get(kind="responses")  # the made-up run has one model for both
    assert stage.queue == "gpu"
    assert campaign.systems.get(index=0).stage == campaign.systems.get(index=1).stage == stage
    missing = {system.index: 8 - system.responses.count() for system in campaign.systems.all()}
    assert missing[2] == 0
    assert 5 <= missing[0] <= 8
    with pytest.raises(UserError, match="of the responses of 'RSO' are not there yet"):
        open_campaign(campaign, by=researcher)

    work_on(stage)

    assert what_is_missing(campaign) == []
    assert sum(text.startswith("sampled for ") for text in texts(campaign, 0).values()) == missing[0]
    open_campaign(campaign, by=researcher)


def test_nothing_is_sampled_twice_for_two_campaigns(researcher: User) -> None:
    imported(researcher)
    run = finished_run(researcher, answered=[])
    first, _ = compared(researcher, run, num_items=8)
    work_on(Stage.objects.get(kind="responses"))
    second, _ = compared(researcher, run, name="Again", num_items=8)
    third, _ = compared(researcher, run, name="Fewer, others", num_items=4, seed=9)

    assert what_is_missing(second) == []
    assert texts(second, 0) == texts(first, 0)
    stages = Stage.objects.filter(kind="responses")
    assert stages.count() == (1 if not what_is_missing(third) else 2)


def test_a_sampling_that_failed_says_why_and_is_tried_again(researcher: User) -> None:
    imported(researcher)
    campaign, _ = compared(researcher, finished_run(researcher, answered=[]))
    system = campaign.systems.get(index=0)
    assert system.stage is not None
    claim = jobs.claim(stage_id=system.stage.pk, worker="gpu@here")
    assert claim is not None
    jobs.fail_shard(claim, Failed("user", "the model computes NaN"))
    system.refresh_from_db()
    assert system.stage is not None
    assert (system.stage.status, system.stage.message) == ("failed", "the model computes NaN")

    retry_responses(system, by=researcher)

    system.stage.refresh_from_db()
    assert system.stage.status == "ready"
    work_on(system.stage)
    assert what_is_missing(campaign) == []


def test_asking_again_changes_nothing(run: Run, researcher: User) -> None:
    campaign, _ = compared(researcher, run)
    before = texts(campaign, 0)
    assert request_responses(campaign.systems.get(index=0)) is None
    assert texts(campaign, 0) == before


def sampled_draft(researcher: User) -> Campaign:
    """Return a draft of which a worker is to sample responses."""
    imported(researcher)
    return compared(researcher, finished_run(researcher, answered=[])).campaign


def test_a_sampling_is_stopped_and_gone_on_with(researcher: User) -> None:
    campaign = sampled_draft(researcher)
    first, second = campaign.systems.filter(kind__in=["policy", "sft"])
    stage = Stage.objects.get(kind="responses")  # of both: the made-up run has one model
    claim = jobs.claim(stage_id=stage.pk, worker="gpu@here")
    assert claim is not None

    assert stop_responses(first, by=researcher)
    stage.refresh_from_db()
    assert stage.status == "running", "the other system waits for it"
    assert stop_responses(second, by=researcher)

    stage.refresh_from_db()
    assert stage.status == "stopped"
    with pytest.raises(jobs.LeaseLost):
        jobs.record(claim)
    assert [row.unasked for row in system_rows(campaign)] == [True, True, False]
    assert not stop_responses(first, by=researcher), "nothing is being sampled any more"
    assert (
        list(AuditEntry.objects.filter(action__contains="sampling").values_list("action", "actor_name"))
        == [("stopped the sampling of", "researcher")] * 2
    )

    for system in (first, second):
        system.refresh_from_db()
        retry_responses(system, by=researcher)

    stage.refresh_from_db()
    assert stage.status == "ready"
    work_on(stage)
    assert what_is_missing(campaign) == []
    assert not stop_responses(first, by=researcher), "it is done"


def test_a_stop_that_comes_after_the_worker_changes_nothing(researcher: User) -> None:
    campaign = sampled_draft(researcher)
    system = campaign.systems.get(index=0)
    work_on(Stage.objects.get(kind="responses"))
    assert not stop_responses(system, by=researcher)
    assert what_is_missing(campaign) == []
    assert Stage.objects.get(kind="responses").status == "done"


def test_what_only_a_removed_draft_waited_for_is_not_sampled(researcher: User) -> None:
    campaign = sampled_draft(researcher)
    other, _ = compared(researcher, Run.objects.get(), name="The same")
    remove_draft(campaign, by=researcher)
    assert Stage.objects.get(kind="responses").status == "ready"
    remove_draft(other, by=researcher)
    assert Stage.objects.get(kind="responses").status == "stopped"
