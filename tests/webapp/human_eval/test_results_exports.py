"""What is exported can be read back, names no account, runs no formula, and comes home as a preference dataset."""

import csv
import io
import json
from typing import Any

import pytest
from django.http import HttpResponseBase, StreamingHttpResponse

from rso_core.artifacts import iterate_rows
from tests.webapp.human_eval.made_campaigns import answer, known_item, made_campaign, made_rater, verdict
from tests.webapp.human_eval.test_results_figures import rated
from tests.webapp.made_runs import signed_in
from tests.webapp.work import imported, json_lines, pairs, rows_of, work_off
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.exports import COLUMNS
from webapp.human_eval.models import Answer, Campaign, Item, Response
from webapp.human_eval.preference_export import preference_pairs
from webapp.runs.models import Dataset

pytestmark = pytest.mark.django_db


def text_of(response: HttpResponseBase) -> str:
    assert isinstance(response, StreamingHttpResponse)
    return b"".join(response).decode()  # type: ignore[arg-type]


def exported(user: User, campaign: Campaign, name: str) -> list[dict[str, Any]]:
    text = text_of(signed_in(user).get(f"/campaigns/{campaign.pk}/{name}"))
    if name.endswith("csv"):
        return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    return [json.loads(line) for line in text.splitlines()]


def test_every_answer_is_exported_with_what_was_shown_and_said(researcher: User, rater: User) -> None:
    campaign = made_campaign(researcher, items=1)
    who, late = made_rater(campaign, user=rater), made_rater(campaign)
    given = answer(campaign, who, verdict(best=2, reason="short"), active_ms=0)
    surplus = answer(campaign, late, best=None)
    Answer.objects.filter(pk=surplus.pk).update(standing="surplus", surplus_reason="it came late")
    first, second = exported(researcher, campaign, "answers.jsonl")
    labels = list(campaign.systems.values_list("label", flat=True))
    assert tuple(first) == COLUMNS
    assert (first["rater"], first["standing"], first["order"]) == (who.pseudonym, "counted", given.order)
    assert [first["shown_1"], first["shown_2"], first["shown_3"]] == [labels[int(index)] for index in given.order]
    assert [first["quality_0"], first["quality_1"], first["quality_2"]] == [3, 3, 5]
    assert (first["choice"], first["chosen_system"], first["same"], first["reason"]) == (2, labels[2], False, "short")
    assert first["chosen_place"] == given.order.index("2") + 1
    assert (second["standing"], second["reason_not_counted"]) == ("surplus", "it came late")
    assert (second["choice"], second["same"], second["chosen_place"]) == (None, True, None)
    text = json.dumps([first, second])
    assert "rater" not in (first["rater"], second["rater"])  # the account's name
    assert rater.username not in {value for row in (first, second) for value in row.values()}
    assert text


def test_the_csv_has_the_same_columns_and_no_formulas(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    answer(campaign, made_rater(campaign), verdict(reason='=HYPERLINK("http://evil.example")'))
    (row,) = exported(researcher, campaign, "answers.csv")
    assert tuple(row) == COLUMNS
    assert row["reason"].startswith("'=")


def test_known_items_are_exported_with_what_was_expected(researcher: User) -> None:
    campaign = made_campaign(researcher, items=1, replicas=1)
    check, who = known_item(campaign, expected=None), made_rater(campaign)
    Answer.objects.create(
        campaign=campaign, item=check, rater=who, standing="surplus", order="012", quality_0=3, quality_1=3, quality_2=3,
        choice=None, same=True, submitted=campaign.created,
    )  # fmt: skip
    (row,) = exported(researcher, campaign, "answers.jsonl")
    assert (row["item_kind"], row["expected"], row["right"], row["system_0"]) == ("check", "same", True, None)


def test_items_and_results_are_exported_and_everything_is_written_down(researcher: User) -> None:
    campaign = rated(researcher)
    signed_in(researcher).head(f"/campaigns/{campaign.pk}/items.jsonl")  # exports nothing, so nothing is written down
    items = exported(researcher, campaign, "items.jsonl")
    assert [item["item"] for item in items] == [1, 2, 3, 4]
    assert items[2]["responses"][1]["text"] == "Answer 1 to post 2."
    table = exported(researcher, campaign, "results.csv")
    assert [row["chosen"] for row in table] == ["0.5", "0.0", "0.0", "0.25", "0.25"]
    assert table[0]["quality"] == "4.0"
    assert len(exported(researcher, campaign, "answers.csv")) == 12
    actions = AuditEntry.objects.filter(action="exported", number=campaign.pk).values_list("details__what", flat=True)
    assert sorted(actions) == ["answers.csv", "items.jsonl", "results.csv"]


def test_a_majority_gives_pairs_and_the_rest_is_counted(researcher: User) -> None:
    campaign = rated(researcher)
    found = preference_pairs(campaign, by="majority")
    texts = [(row["meta"]["item"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found.rows]
    assert texts == [
        (item + 1, f"Answer 0 to post {item}.", f"Answer {other} to post {item}.")
        for item in (0, 1)
        for other in (1, 2)
    ]
    assert (found.items, found.used, found.same, found.no_majority) == (4, 2, 1, 1)
    assert (found.rows[2]["meta"]["votes"], found.rows[2]["meta"]["of"]) == (2, 3)


def test_every_vote_gives_pairs_and_equal_ones_are_one_with_their_number(researcher: User) -> None:
    found = preference_pairs(rated(researcher), by="votes")
    # Item 0: one winner; 1: two; 2: one (two say same); 3: three. Each gives two pairs.
    assert len(found.rows) == 2 * (1 + 2 + 1 + 3)
    assert (found.same, found.repeated, found.used) == (2, 2 + 1, 4)
    assert sum(row["meta"]["votes"] for row in found.rows) == 2 * 10


def test_identical_responses_are_one_text_and_make_no_pair_of_themselves(researcher: User) -> None:
    campaign = rated(researcher, ((0, 1, 2), (0, 0, 0)))
    Response.objects.filter(item__campaign=campaign, item__index=0, index__in=[0, 1]).update(text="The same.")
    Response.objects.filter(item__campaign=campaign, item__index=1).update(text="All alike.")
    found = preference_pairs(campaign, by="majority")
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found.rows] == [
        ("The same.", "Answer 2 to post 0.")
    ]
    assert found.no_other_text == 1


def test_a_preference_dataset_is_made_imported_and_offered_by_the_form_of_a_new_run(researcher: User) -> None:
    source = imported(researcher, "posts", json_lines(pairs(4)))
    campaign = rated(researcher, dataset=source)
    for item, row in zip(campaign.items.order_by("index"), iterate_rows(rows_of(source)), strict=True):
        Item.objects.filter(pk=item.pk).update(
            prompt=row["prompt"], messages=json.loads(row["messages"]), prompt_id=row["prompt_id"], root=row["root"]
        )
    client = signed_in(researcher)
    page = client.get(f"/campaigns/{campaign.pk}/preferences/").content.decode()
    assert "2 of 4" in page
    response = client.post(f"/campaigns/{campaign.pk}/preferences/", {"name": "chosen by people", "by": "majority"})
    dataset = Dataset.objects.get(name="chosen by people")
    made = response["Location"]
    assert made == f"/campaigns/{campaign.pk}/preferences/"
    assert "Launch a run with it" not in client.get(f"{made}live/").content.decode()
    assert (dataset.owner, dataset.kind, dataset.task, dataset.shared) == (
        researcher,
        "preference",
        "summarization",
        False,
    )

    work_off(dataset.stage)
    dataset.refresh_from_db()
    assert (dataset.rows_in, dataset.rows_kept) == (4, 4)
    originals = {row["prompt_id"]: row["root"] for row in iterate_rows(rows_of(source))}
    rows = list(iterate_rows(rows_of(dataset)))
    assert {row["prompt_id"]: row["root"] for row in rows}.items() <= originals.items()
    assert {(row["chosen"], row["rejected"]) for row in rows} == {
        (f"Answer 0 to post {item}.", f"Answer {other} to post {item}.") for item in (0, 1) for other in (1, 2)
    }
    assert json.loads(rows[0]["meta"])["votes"] == 3
    assert "/runs/new/?data.preferences=chosen%20by%20people" in client.get(f"{made}live/").content.decode()
    form = client.get("/runs/new/?data.preferences=chosen%20by%20people").content.decode()
    assert '<option value="chosen by people" selected' in form
    entry = AuditEntry.objects.filter(action="exported").get()
    assert (entry.details["what"], entry.details["pairs"]) == ("preferences", 4)


def test_a_dataset_of_a_shared_campaign_is_shared(researcher: User) -> None:
    campaign = rated(researcher, shared=True)
    signed_in(researcher).post(f"/campaigns/{campaign.pk}/preferences/", {"name": "ours", "by": "votes"})
    dataset = Dataset.objects.get(name="ours")
    assert dataset.shared
    work_off(dataset.stage)
    dataset.refresh_from_db()
    assert dataset.rows_kept == 14


def test_a_dataset_that_cannot_be_made_says_why(researcher: User) -> None:
    nothing = rated(researcher, ((None, None, None), (0, 1, 2)))
    address = f"/campaigns/{nothing.pk}/preferences/"
    client = signed_in(researcher)
    body = client.post(address, {"name": "empty", "by": "majority"}).content.decode()
    assert "give no pair by majority: 1 say “same”, 1 have no majority" in body
    assert not Dataset.objects.exists()
    assert "This field is required" in client.post(address, {"by": "majority"}).content.decode()
    imported(researcher, "taken", json_lines(pairs(2)))
    body = client.post(address, {"name": "taken", "by": "votes"}).content.decode()
    assert "A dataset is called" in body
