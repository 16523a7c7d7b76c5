"""What may be changed when: answers given before must mean the same as answers given after."""

from typing import Any

import pytest

from rso_core.errors import UserError
from tests.webapp.human_eval.made_campaigns import answer, made_campaign, made_rater
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval import assignment, services
from webapp.human_eval.changes import edit_campaign, rename_systems
from webapp.human_eval.known_tasks import KnownTask, add_known_item, remove_known_item
from webapp.human_eval.models import Campaign

pytestmark = pytest.mark.django_db

MEANING = {
    "quality_question": "How true?",
    "choice_question": "Which is truest?",
    "same_label": "All alike",
    "scale_max": 7,
    "anchors": {"1": "Bad"},
    "qualification_pass": 1,
}


@pytest.mark.parametrize("field", MEANING)
@pytest.mark.parametrize("status", ["draft", "paused", "open"])
def test_what_gives_answers_their_meaning_changes_only_while_nobody_can_have_seen_it(
    researcher: User, field: str, status: str
) -> None:
    campaign = made_campaign(researcher, items=2, status=status)
    if status == "open":
        with pytest.raises(UserError, match="pause it first"):
            edit_campaign(campaign, {field: MEANING[field]}, by=researcher)
    else:
        assert edit_campaign(campaign, {field: MEANING[field]}, by=researcher) == [field]
    campaign.refresh_from_db()
    assert (getattr(campaign, field) == MEANING[field]) == (status != "open")


def test_after_the_first_task_was_handed_out_meaning_is_fixed_for_good(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    assignment.claim(campaign, made_rater(campaign))
    services.move(campaign, "paused", by=researcher)
    with pytest.raises(UserError, match="raters have had tasks in hand"):
        edit_campaign(campaign, {"scale_max": 7}, by=researcher)


FREE = {
    "name": "New",
    "title": "Rate!",
    "instructions": "Read.",
    "lease_seconds": 60,
    "max_items_per_rater": 3,
    "check_share": 0.05,
}


@pytest.mark.parametrize("field", FREE)
def test_names_texts_and_limits_change_at_any_time_and_are_recorded(researcher: User, field: str) -> None:
    campaign = made_campaign(researcher, items=2)
    answer(campaign, made_rater(campaign))
    before = getattr(campaign, field)
    assert edit_campaign(campaign, {field: FREE[field]}, by=researcher) == [field]
    assert getattr(campaign, field) == FREE[field]
    entry = AuditEntry.objects.get(action="changed", kind="campaign")
    assert entry.details == {"fields": {field: [before, FREE[field]]}}


def test_saving_what_is_there_already_changes_and_records_nothing(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    values = {"title": campaign.title, "anchors": dict(campaign.anchors), "consent": campaign.consent}
    assert edit_campaign(campaign, values, by=researcher) == []
    assert campaign.consent_version == 1
    assert not AuditEntry.objects.exists()


def test_a_changed_consent_text_is_a_new_version(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2, consent="Agree?")
    edit_campaign(campaign, {"consent": "Do you agree?"}, by=researcher)
    assert campaign.consent_version == 2


def test_more_raters_per_task_are_new_slots_and_fewer_are_refused(researcher: User) -> None:
    campaign = made_campaign(researcher, items=4, replicas=2)
    answer(campaign, made_rater(campaign))
    edit_campaign(campaign, {"replicas": 5}, by=researcher)
    numbers = list(campaign.slots.filter(item__index=0).order_by("number").values_list("number", flat=True))
    assert numbers == [0, 1, 2, 3, 4]
    assert campaign.slots.count() == 20
    priorities = campaign.slots.filter(item__index=1).values_list("priority", flat=True)
    assert len(set(priorities)) == 1
    with pytest.raises(UserError, match="it has 5, 3 were asked for"):
        edit_campaign(campaign, {"replicas": 3}, by=researcher)


def test_a_draft_may_have_fewer_raters_per_task(researcher: User) -> None:
    campaign = made_campaign(researcher, items=3, status="draft")
    edit_campaign(campaign, {"replicas": 1}, by=researcher)
    assert services.open_campaign(campaign, by=researcher) == 3


@pytest.mark.parametrize("field", ["way", "task", "seed", "dataset_id", "status", "owner_id", "split"])
def test_nothing_else_can_be_changed(researcher: User, field: str) -> None:
    campaign = made_campaign(researcher, items=2, status="draft")
    with pytest.raises(UserError, match=f"{field} cannot be changed"):
        edit_campaign(campaign, {field: "other"}, by=researcher)


def test_a_name_that_is_taken_is_refused(researcher: User) -> None:
    made_campaign(researcher, items=2, name="Taken")
    campaign = made_campaign(researcher, items=2)
    with pytest.raises(UserError, match="a campaign called 'Taken' already"):
        edit_campaign(campaign, {"name": "Taken"}, by=researcher)


def test_names_of_systems_may_be_swapped(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    first, second, _ = campaign.systems.values_list("label", flat=True)
    rename_systems(campaign, {0: second, 1: first}, by=researcher)
    assert list(campaign.systems.values_list("label", flat=True))[:2] == [second, first]
    with pytest.raises(UserError, match="a name of its own"):
        rename_systems(campaign, {0: "x", 1: "x"}, by=researcher)


def task(kind: str = "check", **changed: Any) -> KnownTask:
    values: dict[str, Any] = {"kind": kind, "prompt": "Two and two?", "responses": ["4", "5", "6"], "expected": 0}
    return KnownTask(**(values | changed))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"responses": ["4", "5"]}, "3 responses, got 2"),
        ({"prompt": " "}, "needs a prompt"),
        ({"expected": 3}, "got number 4"),
    ],
)
def test_a_known_task_must_fit_the_campaign(researcher: User, wrong: dict[str, Any], message: str) -> None:
    campaign = made_campaign(researcher, items=2, status="draft")
    with pytest.raises(UserError, match=message):
        add_known_item(campaign, task(**wrong), by=researcher)


def test_check_tasks_come_at_any_time_and_qualification_tasks_before_anybody_had_to_pass(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    item = add_known_item(campaign, task(), by=researcher)
    assert item.index == 2
    assert len(item.base_order) == 3
    with pytest.raises(UserError, match="pause it first"):
        add_known_item(campaign, task("qualification"), by=researcher)


def test_a_conversation_is_shown_in_turns_like_any_other(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2, task="dialogue")
    prompt = "Human: Hello.\n\nAssistant: Hello! How\n\nare you?\n\nHuman: Two and two?"
    item = add_known_item(campaign, task(prompt=prompt), by=researcher)
    assert item.messages == [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello! How\n\nare you?"},
        {"role": "user", "content": "Two and two?"},
    ]


def test_a_known_task_that_raters_had_stays(researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    Campaign.objects.filter(pk=campaign.pk).update(check_share=0.1)
    item = add_known_item(campaign, task(), by=researcher)
    item.slots.create(campaign=campaign, number=1)
    with pytest.raises(UserError, match="has been given to raters"):
        remove_known_item(item, by=researcher)
    item.slots.all().delete()
    remove_known_item(item, by=researcher)
    assert campaign.items.count() == 2
    with pytest.raises(UserError, match="only known tasks"):
        remove_known_item(campaign.items.get(index=0), by=researcher)
