"""Making a draft: systems, prompts that nobody was trained on, and responses from wherever they are."""

import pytest

from rso_core.errors import UserError
from rso_core.run_data import assign_split
from tests.webapp.human_eval.comparisons import SPLIT, compared, finished_run, rows_of_split, said, values, work_on
from tests.webapp.made_runs import config_of, imported, launched
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.creation import SystemChoice, create_campaign, remove_draft
from webapp.human_eval.launching import what_is_missing
from webapp.human_eval.models import Campaign, Item, Response
from webapp.human_eval.responses import request_responses, retry_responses
from webapp.human_eval.services import open_campaign
from webapp.runs import jobs
from webapp.runs.failures import Failed
from webapp.runs.models import Dataset, Run, Stage

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

    retry_responses(system)

    system.stage.refresh_from_db()
    assert system.stage.status == "ready"
    work_on(system.stage)
    assert what_is_missing(campaign) == []


def test_asking_again_changes_nothing(run: Run, researcher: User) -> None:
    campaign, _ = compared(researcher, run)
    before = texts(campaign, 0)
    assert request_responses(campaign.systems.get(index=0)) is None
    assert texts(campaign, 0) == before


def test_prompts_are_those_of_the_split_in_which_no_system_was_trained(run: Run, researcher: User) -> None:
    campaign, prompts = compared(researcher, run, num_items=0)
    roots = campaign.items.values_list("root", flat=True)
    assert {assign_split(root, SPLIT) for root in roots} == {"test"}
    assert campaign.num_items == prompts.available == len(rows_of_split())
    assert prompts.trained_on == 0


def test_any_split_leaves_out_and_counts_what_a_system_was_trained_on(run: Run, researcher: User) -> None:
    campaign, prompts = compared(researcher, run, split="any", num_items=0)
    assert prompts.trained_on == len(rows_of_split("train"))
    assert campaign.items.count() == 120 - prompts.trained_on
    entry = AuditEntry.objects.get(action="created", kind="campaign")
    assert entry.details["left_out_as_trained_on"] == prompts.trained_on


def test_a_prompt_is_in_the_test_split_only_if_it_is_so_for_every_run(run: Run, researcher: User) -> None:
    other = config_of("Other split")
    other = other.model_copy(update={"data": other.data.model_copy(update={"split_seed": 5})})
    second = finished_run(researcher, other, answered=[])
    systems = [SystemChoice("policy", "one", run), SystemChoice("policy", "two", second)]

    with pytest.raises(UserError, match="that no chosen system was trained on"):
        create_campaign(owner=researcher, values=values(num_items=12), systems=systems)
    both = create_campaign(owner=researcher, values=values(num_items=0, split="any"), systems=systems)

    for root in both.campaign.items.values_list("root", flat=True):
        assert assign_split(root, SPLIT) != "train"
        assert assign_split(root, {**SPLIT, "seed": 5}) != "train"


def test_too_few_prompts_are_refused_with_the_number_there_is(run: Run, researcher: User) -> None:
    with pytest.raises(UserError, match=r"has \d+ prompts in its test split.*500 are needed"):
        compared(researcher, run, num_items=500)
    assert not Campaign.objects.exists()


def test_the_same_seed_draws_the_same_prompts(run: Run, researcher: User) -> None:
    def drawn(name: str, seed: int) -> list[str]:
        return list(compared(researcher, run, name=name, seed=seed).campaign.items.values_list("prompt_id", flat=True))

    assert drawn("one", 4) == drawn("two", 4) != drawn("three", 5)


def test_items_know_conversation_and_turns(run: Run, researcher: User) -> None:
    item = compared(researcher, run).campaign.items.get(index=0)
    assert item.messages == [{"role": "user", "content": item.prompt}]
    assert len(item.root) == 16


def test_systems_that_cannot_be_compared_are_refused(run: Run, researcher: User) -> None:
    unfinished = launched(researcher, config_of("Unfinished", seed=9))
    preferences = Dataset.objects.get(name="preferences")
    policy, people = SystemChoice("policy", "RSO", run), SystemChoice("target", "people")
    cases = [
        ([policy], {}, "two or three systems, got 1"),
        ([policy, SystemChoice("sft", "RSO", run)], {}, "two systems are called 'RSO'"),
        ([policy, SystemChoice("policy", "again", run)], {}, "two of the systems are the same"),
        ([policy, SystemChoice("policy", "soon", unfinished)], {}, "must be a model of a finished run"),
        ([policy, people], {"dataset": preferences}, "no SFT targets"),
        ([policy, people], {"task": "dialogue"}, "was made for summarization"),
    ]
    for systems, changed, message in cases:
        with pytest.raises(UserError, match=message):
            create_campaign(owner=researcher, values=values(**changed), systems=systems)
    assert not Campaign.objects.exists()


def test_a_name_is_taken_once_by_each_owner(run: Run, researcher: User, admin: User) -> None:
    compared(researcher, run)
    with pytest.raises(UserError, match="you have a campaign called 'Which policy\\?' already"):
        compared(researcher, run)
    compared(admin, run)


def test_the_reference_of_a_two_way_comparison_is_kept(run: Run, researcher: User) -> None:
    systems = [SystemChoice("policy", "RSO", run), SystemChoice("target", "people", is_reference=True)]
    campaign, _ = create_campaign(owner=researcher, values=values(), systems=systems)
    assert campaign.way == 2
    assert list(campaign.systems.values_list("is_reference", flat=True)) == [False, True]
    assert open_campaign(campaign, by=researcher) == 18
    assert set(campaign.items.values_list("base_order", flat=True)) == {"01", "10"}


def test_a_draft_is_removed_with_all_that_was_in_it_and_an_opened_campaign_is_not(run: Run, researcher: User) -> None:
    campaign, _ = compared(researcher, run)
    remove_draft(campaign, by=researcher)
    assert not Item.objects.exists()
    opened, _ = compared(researcher, run)
    open_campaign(opened, by=researcher)
    with pytest.raises(UserError, match="cannot be removed any more"):
        remove_draft(opened, by=researcher)
