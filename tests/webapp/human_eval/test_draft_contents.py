"""What a draft compares can be changed; what is still wanted of its responses is kept."""

from typing import Any

import pytest

from rso_core.errors import UserError
from tests.webapp.human_eval.comparisons import compared, finished_run, work_on
from tests.webapp.human_eval.made_campaigns import known_item
from tests.webapp.made_runs import config_of, imported
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.creation import SystemChoice
from webapp.human_eval.draft_contents import change_contents
from webapp.human_eval.launching import what_is_missing
from webapp.human_eval.models import Campaign, Item, Response
from webapp.human_eval.services import leave_out, open_campaign
from webapp.runs.models import Dataset, Run, Stage

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("made_store")]


@pytest.fixture
def run(researcher: User) -> Run:
    imported(researcher)
    return finished_run(researcher)


@pytest.fixture
def draft(run: Run, researcher: User) -> Campaign:
    return compared(researcher, run).campaign


def source(campaign: Campaign, **changed: Any) -> dict[str, Any]:
    fields = ("dataset", "split", "num_items", "seed", "task")
    return {name: getattr(campaign, name) for name in fields} | changed


def choices(run: Run) -> list[SystemChoice]:
    return [SystemChoice("policy", "RSO", run), SystemChoice("sft", "SFT", run), SystemChoice("target", "people")]


def texts(campaign: Campaign, label: str) -> dict[str, str]:
    found = Response.objects.filter(item__campaign=campaign, system__label=label)
    return dict(found.values_list("item__prompt_id", "text"))


def prompts(campaign: Campaign) -> list[str]:
    return list(campaign.items.filter(kind="main").order_by("index").values_list("prompt_id", flat=True))


def test_other_systems_are_compared_on_the_same_prompts(draft: Campaign, run: Run, researcher: User) -> None:
    known = [known_item(draft, "check"), known_item(draft, "qualification")]
    leave_out(draft, [draft.items.get(index=1).pk], by=researcher, reason="odd")
    before, said = prompts(draft), texts(draft, "SFT")
    pair = [SystemChoice("target", "people", is_reference=True), SystemChoice("sft", "SFT, renamed", run)]

    changed, _ = change_contents(draft, source(draft), pair, by=researcher)

    assert prompts(draft) == before, "left out stays left out"
    assert (changed.way, changed.num_items, draft.way) == (2, 5, 2)
    assert texts(draft, "SFT, renamed") == said
    assert list(draft.systems.values_list("label", "is_reference")) == [("people", True), ("SFT, renamed", False)]
    assert list(draft.items.order_by("index").values_list("index", flat=True)) == list(range(7))
    assert [item.pk for item in draft.items.exclude(kind="main").order_by("index")] == [item.pk for item in known]
    assert "known tasks 6, 7 need exactly 2 responses each" in "; ".join(what_is_missing(draft))
    entry = AuditEntry.objects.get(action="changed systems and prompts of")
    assert entry.details == {"systems": ["people", "SFT, renamed"], "prompts": 5, "left_out_as_trained_on": 0}


def test_other_prompts_are_drawn_and_answered(draft: Campaign, run: Run, researcher: User) -> None:
    before = prompts(draft)
    change_contents(draft, source(draft, num_items=4, seed=9), choices(run), by=researcher)
    assert len(prompts(draft)) == 4
    assert prompts(draft) != before[:4]
    assert what_is_missing(draft) == [], "the run has answered all of them"
    assert open_campaign(draft, by=researcher) == 12


def test_prompts_that_a_new_system_was_trained_on_are_left_out(run: Run, researcher: User) -> None:
    other = config_of("Other split")
    other = other.model_copy(update={"data": other.data.model_copy(update={"split_seed": 5})})
    second = finished_run(researcher, other, answered=[])
    draft = compared(researcher, run, num_items=0).campaign
    before = prompts(draft)
    two = [SystemChoice("policy", "one", run), SystemChoice("policy", "two", second)]
    _, found = change_contents(draft, source(draft), two, by=researcher)
    assert prompts(draft) == [prompt for prompt in before if prompt in set(prompts(draft))]
    assert found.trained_on == len(before) - len(prompts(draft)) > 0


def test_uploaded_responses_are_kept_at_any_place_and_by_no_other_system(
    draft: Campaign, run: Run, researcher: User
) -> None:
    files = [SystemChoice("file", "A"), SystemChoice("file", "B")]
    change_contents(draft, source(draft), files, by=researcher)
    for system in draft.systems.all():
        for item in draft.items.all():
            Response.objects.create(item=item, system=system, index=system.index, text=f"{system.label} {item.index}")
        system.upload_name = f"{system.label}.jsonl"
        system.save()
    said = texts(draft, "B")

    swapped = [SystemChoice("file", "B", uploaded=1), SystemChoice("file", "new"), SystemChoice("target", "people")]
    change_contents(draft, source(draft), swapped, by=researcher)

    assert texts(draft, "B") == said
    assert texts(draft, "new") == {}
    assert list(draft.systems.values_list("upload_name", flat=True)) == ["B.jsonl", "", ""]
    twice = [SystemChoice("file", "x", uploaded=0), SystemChoice("file", "y", uploaded=0)]
    with pytest.raises(UserError, match="two of the systems are the same"):
        change_contents(draft, source(draft), twice, by=researcher)


def test_a_sampling_that_is_no_longer_wanted_stops(researcher: User) -> None:
    imported(researcher)
    run = finished_run(researcher, answered=[])
    draft = compared(researcher, run).campaign
    stage = Stage.objects.get(kind="responses")
    change_contents(draft, source(draft), [SystemChoice("file", "A"), SystemChoice("target", "people")], by=researcher)
    stage.refresh_from_db()
    assert stage.status == "stopped"
    change_contents(draft, source(draft), choices(run), by=researcher)
    stage.refresh_from_db()
    assert stage.status == "ready", "the same work is gone on with"
    work_on(stage)
    assert what_is_missing(draft) == []


def test_what_cannot_be_compared_changes_nothing(draft: Campaign, run: Run, researcher: User) -> None:
    before, systems = prompts(draft), list(draft.systems.values_list("pk", flat=True))
    preferences = Dataset.objects.get(name="preferences")
    cases: list[tuple[list[SystemChoice], dict[str, Any], str]] = [
        (choices(run)[:1], {}, "two or three systems, got 1"),
        (choices(run), {"dataset": preferences}, "no SFT targets"),
        (choices(run), {"num_items": 5000}, "5000 are needed"),
    ]
    for chosen, changed, message in cases:
        with pytest.raises(UserError, match=message):
            change_contents(draft, source(draft, **changed), chosen, by=researcher)
    assert (prompts(draft), list(draft.systems.values_list("pk", flat=True))) == (before, systems)


def test_an_opened_campaign_keeps_its_systems_and_prompts(draft: Campaign, run: Run, researcher: User) -> None:
    open_campaign(draft, by=researcher)
    with pytest.raises(UserError, match="has been opened: its systems and prompts stay"):
        change_contents(draft, source(draft, num_items=2), choices(run), by=researcher)
    assert Item.objects.filter(campaign=draft).count() == 6
