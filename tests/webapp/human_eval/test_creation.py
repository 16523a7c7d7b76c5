"""Making a draft: systems, and prompts that nobody was trained on."""

import pytest

from rso_core.errors import UserError
from rso_core.run_data import assign_split
from tests.webapp.human_eval.comparisons import SPLIT, compared, finished_run, rows_of_split, values
from tests.webapp.made_runs import config_of, imported, launched
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.creation import SystemChoice, create_campaign, remove_draft
from webapp.human_eval.models import Campaign, Item
from webapp.human_eval.services import open_campaign
from webapp.runs.models import Dataset, Run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("made_store")]


@pytest.fixture
def run(researcher: User) -> Run:
    imported(researcher)
    return finished_run(researcher)


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
