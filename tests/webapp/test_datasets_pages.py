import json
import re
import shutil
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client

from rso_core.artifacts import iterate_rows
from rso_core.mini_tldr import generate_dataset
from tests.webapp.work import imported, json_lines, keep, pairs, rows_of, work_off
from webapp.accounts.models import User
from webapp.runs import services
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset, RegisteredModel, Stage

pytestmark = pytest.mark.django_db

BAD_ROWS = [
    '{"prompt": "same", "chosen": "x", "rejected": "x"}',
    "=1+1",
    '{"prompt": "", "chosen": "a", "rejected": "b"}',
]
NEW = "/datasets/new/"


@pytest.fixture
def page(client: Client, researcher: User) -> Client:
    """A browser in which the researcher has signed in."""
    client.force_login(researcher)
    return client


def form(**changes: Any) -> dict[str, Any]:
    """Return what a browser posts for a dataset whose file is uploaded."""
    values = {"name": "posts", "kind": "preference", "task": "dialogue", "origin": "upload", "layout": "auto"}
    return {**values, "file": file(json_lines(pairs(3))), **changes}


def file(content: bytes, name: str = "posts.jsonl") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content)


def text(response: HttpResponse) -> str:
    return response.content.decode()


def errors_of(response: HttpResponse) -> dict[str, list[str]]:
    assert response.status_code == 200
    return {name: list(errors) for name, errors in response.context["form"].errors.items()}


def test_an_uploaded_file_becomes_a_dataset_with_every_row_accounted_for(page: Client, researcher: User) -> None:
    content = json_lines([*pairs(20), *BAD_ROWS])
    response = page.post(NEW, form(file=file(content), licence="MIT"))
    dataset = Dataset.objects.get(name="posts")
    assert response["Location"] == dataset.get_absolute_url()
    assert (dataset.owner, dataset.source, dataset.licence) == (researcher, "posts.jsonl", "MIT")

    waiting = text(page.get(dataset.get_absolute_url()))
    assert "Waiting for a worker of the cpu queue" in waiting

    work_off(dataset.stage)
    dataset.refresh_from_db()
    assert (dataset.rows_in, dataset.rows_kept, dataset.rows_rejected) == (23, 20, 3)
    done = text(page.get(dataset.get_absolute_url()))
    for expected in (
        "question 9",
        "good answer 9",
        "chosen and rejected are the same text",
        "the record is not valid JSON",
    ):
        assert expected in done


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"name": ""}, "name", "required"),
        ({"file": ""}, "file", "Choose a file"),
        ({"file": file(b"\x00\x01", "posts.docx")}, "file", "no known format"),
        ({"file": file(b"", "empty.jsonl")}, "file", "empty"),
        ({"origin": "hub", "file": ""}, "hub", "Write the hub id"),
        ({"origin": "hub", "file": "", "hub": "../secrets"}, "hub", "owner/name"),
        ({"origin": "hub", "file": "", "hub": "a/b", "revision": "--x"}, "revision", "branch"),
        ({"origin": "mini_tldr", "size": "0"}, "size", "greater than or equal to 1"),
        ({"kind": "preference", "layout": "sft"}, "layout", "holds no preference pairs"),
        ({"kind": "sft", "layout": "prompts"}, "layout", "holds no prompts with targets"),
        ({"layout": "mapping", "map_chosen": "good"}, "map_rejected", "Name the column"),
        ({"kind": "sft", "layout": "mapping"}, "map_target", "Name the column"),
        ({"kind": "nonsense"}, "kind", "valid choice"),
        ({"name": "x" * 81}, "name", "at most 80"),
    ],
)
def test_a_mistake_is_told_beside_its_field_and_nothing_is_imported(
    page: Client, changes: dict[str, Any], field: str, message: str
) -> None:
    errors = errors_of(page.post(NEW, form(**changes)))
    assert list(errors) == [field]
    assert message in errors[field][0]
    assert not Dataset.objects.exists()


def test_nothing_typed_or_uploaded_is_lost_when_something_else_is_wrong(page: Client) -> None:
    wrong = form(
        name="", source="a paper", licence="CC", layout="mapping", map_prompt="q", map_chosen="good", map_rejected="bad"
    )
    shown = page.post(NEW, wrong)
    body = text(shown)
    for value in ("a paper", "CC", 'value="q"', 'value="good"', 'value="bad"', "posts.jsonl"):
        assert value in body
    receipt = re.search(r'name="kept" value="([^"]+)"', body)
    assert receipt is not None

    del wrong["file"]
    page.post(NEW, wrong | {"name": "posts", "kept": receipt[1]})
    dataset = Dataset.objects.get()
    assert dataset.stage is not None
    assert dataset.stage.input_digests == {"upload": keep(json_lines(pairs(3)), "posts.jsonl")}
    assert dataset.stage.config["mapping"] == {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert dataset.stage.config["layout"] == "preference"


def test_the_receipt_of_a_file_is_good_for_nobody_else(page: Client, admin: User) -> None:
    body = text(page.post(NEW, form(name="")))
    receipt = re.search(r'name="kept" value="([^"]+)"', body)
    assert receipt is not None
    page.force_login(admin)
    assert "file" in errors_of(page.post(NEW, form(file="", kept=receipt[1])))
    assert "file" in errors_of(page.post(NEW, form(file="", kept="forged")))


def test_a_taken_name_is_refused(page: Client, admin: User) -> None:
    imported(admin, "posts", json_lines(pairs(2)))
    assert "called 'posts' already" in errors_of(page.post(NEW, form()))["name"][0]


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        ({}, {"layout": "auto", "all_ranks": False, "kind": "preference"}),
        ({"all_ranks": "on", "layout": "oasst"}, {"layout": "oasst", "all_ranks": True, "kind": "preference"}),
        ({"kind": "sft", "layout": "sft"}, {"layout": "sft", "kind": "sft"}),
        (
            {"kind": "prompts", "layout": "mapping", "map_prompt": "q", "map_root": "thread", "map_chosen": "ignored"},
            {"layout": "prompts", "mapping": {"prompt": "q", "root": "thread"}, "kind": "prompts"},
        ),
        (
            {"origin": "hub", "hub": "Anthropic/hh-rlhf", "hub_split": "test", "layout": "hh"},
            {"layout": "hh", "hub": "Anthropic/hh-rlhf", "revision": "main", "split": "test", "kind": "preference"},
        ),
        (
            {"origin": "mini_tldr", "size": "50", "seed": "3"},
            {"mini_tldr": {"size": 50, "seed": 3}, "kind": "preference"},
        ),
    ],
)
def test_the_form_says_to_the_importer_what_was_chosen(
    page: Client, changes: dict[str, Any], config: dict[str, Any]
) -> None:
    page.post(NEW, form(**changes))
    stage = Dataset.objects.get().stage
    assert stage is not None
    assert stage.config == config


def test_the_built_in_task_is_imported_without_a_file(page: Client) -> None:
    page.post(NEW, form(origin="mini_tldr", file="", size="40", kind="sft"))
    dataset = Dataset.objects.get()
    work_off(dataset.stage)
    dataset.refresh_from_db()
    assert (dataset.task, dataset.rows_kept, dataset.source) == ("summarization", 40, "built-in task mini_tldr")
    first = next(generate_dataset("sft", size=1))
    assert first["target"] in {row["target"] for row in iterate_rows(rows_of(dataset))}


def test_a_failed_import_says_why_and_is_tried_again_or_removed(page: Client) -> None:
    page.post(NEW, form(file=file(b"[]", "posts.json")))
    dataset = Dataset.objects.get()
    work_off(dataset.stage)
    body = text(page.get(dataset.get_absolute_url()))
    assert "the source holds no rows" in body
    assert "Try again" in body

    page.post(f"{dataset.get_absolute_url()}retry/")
    dataset.refresh_from_db()
    assert dataset.stage is not None
    assert dataset.stage.status == "ready"
    work_off(dataset.stage)

    assert page.post(f"{dataset.get_absolute_url()}delete/")["Location"] == "/datasets/"
    assert not Dataset.objects.exists()


def test_the_state_is_polled_with_an_etag_and_the_page_reloads_when_it_ends(page: Client) -> None:
    page.post(NEW, form())
    dataset = Dataset.objects.get()
    url = f"{dataset.get_absolute_url()}status/"
    first = page.get(url)
    assert "data-running" in text(first)
    assert page.get(url, headers={"If-None-Match": first["ETag"]}).status_code == 304

    work_off(dataset.stage)
    last = page.get(url, headers={"If-None-Match": first["ETag"]})
    assert last.status_code == 200
    assert "data-poll-reload" in text(last)


def test_rows_are_searched_and_paged(page: Client, researcher: User) -> None:
    dataset = imported(researcher, "posts", json_lines(pairs(25)))
    url = dataset.get_absolute_url()
    assert "Page 1 of 3" in text(page.get(url))
    last = text(page.get(f"{url}?page=99"))
    assert "Page 3 of 3" in last
    assert "question 24" in last
    found = text(page.get(f"{url}?q=GOOD+ANSWER+7"))
    assert "question 7" in found
    assert "1 row with" in found
    assert "No row holds" in text(page.get(f"{url}?q=nowhere"))
    for strange in (
        "?page=-1",
        "?page=x",
        "?page=99999999999999",
        "?q=%00",
        "?q=(",
        "?profile=99999999999",
        "?sort=no",
    ):
        assert page.get(f"{url}{strange}").status_code == 200


def test_rejected_rows_are_downloaded_whole_and_no_spreadsheet_executes_them(page: Client, researcher: User) -> None:
    dataset = imported(researcher, "posts", json_lines([*pairs(2), *BAD_ROWS]))
    url = f"{dataset.get_absolute_url()}rejected"
    lines = b"".join(page.get(f"{url}.jsonl").streaming_content).decode().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [3, 4, 5]
    response = page.get(f"{url}.csv")
    assert response["Content-Disposition"] == 'attachment; filename="posts-rejected.csv"'
    table = b"".join(response.streaming_content).decode("utf-8-sig").splitlines()
    assert table[0] == "line,code,reason,excerpt"
    assert table[2].endswith(",'=1+1")
    assert page.get(f"{url}.exe").status_code == 404


def test_kept_rows_are_downloaded_whole(page: Client, researcher: User) -> None:
    dataset = imported(researcher, 'a "name" / with\nsigns', json_lines(pairs(4)))
    response = page.get(f"{dataset.get_absolute_url()}rows.jsonl")
    rows = [json.loads(line) for line in b"".join(response.streaming_content).splitlines()]
    assert [row["prompt"] for row in rows] == [f"question {i}" for i in range(4)]
    assert re.fullmatch(r'attachment; filename="[\w.-]+"', response["Content-Disposition"])


def test_the_split_is_shown_for_any_seed_and_fractions(page: Client, researcher: User) -> None:
    dataset = imported(researcher, "posts", json_lines(pairs(60)))
    url = dataset.get_absolute_url()
    shown = page.get(f"{url}?split_seed=7&validation_fraction=0.2&test_fraction=0.3").context["splits"]
    assert [item.split for item in shown] == ["train", "validation", "test"]
    assert sum(item.rows for item in shown) == 60
    assert sum(item.width for item in shown) == pytest.approx(100)
    other = page.get(f"{url}?split_seed=8&validation_fraction=0.2&test_fraction=0.3").context["splits"]
    assert [item.rows for item in other] != [item.rows for item in shown]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("validation_fraction=2", "Must be less than 1"),
        ("split_seed=x", "whole number"),
        ("validation_fraction=0.6&test_fraction=0.6", "must be below 1"),
        ("test_fraction=nan", "Must be"),
    ],
)
def test_an_impossible_split_says_why(page: Client, researcher: User, query: str, message: str) -> None:
    dataset = imported(researcher, "posts", json_lines(pairs(5)))
    response = page.get(f"{dataset.get_absolute_url()}?{query}")
    assert message in text(response)
    assert response.context["splits"] == []


def test_one_click_makes_an_sft_dataset_of_the_chosen_replies(page: Client, researcher: User) -> None:
    dataset = imported(researcher, "posts", json_lines(pairs(6)))
    response = page.post(f"{dataset.get_absolute_url()}derive/")
    derived = Dataset.objects.get(derived_from=dataset)
    assert (derived.name, derived.kind) == ("posts targets", "sft")
    assert response["Location"] == derived.get_absolute_url()
    work_off(derived.stage)
    derived.refresh_from_db()
    rows = list(iterate_rows(rows_of(derived)))
    assert [row["target"] for row in rows] == [f"good answer {i}" for i in range(6)]
    source = list(iterate_rows(rows_of(dataset)))
    assert [(row["prompt_id"], row["root"]) for row in rows] == [(row["prompt_id"], row["root"]) for row in source]
    assert "posts targets 2" in text(page.get(dataset.get_absolute_url()))


def test_a_derived_dataset_needs_a_free_name_and_pairs(page: Client, researcher: User) -> None:
    dataset = imported(researcher, "posts", json_lines(pairs(3)))
    assert "called &#x27;posts&#x27; already" in text(
        page.post(f"{dataset.get_absolute_url()}derive/", {"name": "posts"})
    )
    targets = imported(researcher, "targets", json_lines([{"prompt": "a", "target": "b"}]), kind="sft")
    assert "only an imported preference dataset" in text(page.post(f"{targets.get_absolute_url()}derive/"))


def test_token_lengths_are_measured_under_a_chosen_model_and_drawn(page: Client, researcher: User) -> None:
    dataset = imported(researcher, "posts", json_lines(generate_dataset("preference", size=30)))
    assert "Register a model" in text(page.get(dataset.get_absolute_url()))
    model = services.request_model_import(owner=researcher, name="tiny", config={"mini_tldr": {}})
    work_off(model.stage)
    limits = {"max_prompt_tokens": "20", "max_response_tokens": "12"}
    response = page.post(f"{dataset.get_absolute_url()}lengths/measure/", {"model": model.pk, **limits})
    profile = int(re.search(r"profile=(\d+)", response["Location"])[1])  # type: ignore[index]

    polled = f"{dataset.get_absolute_url()}lengths/?profile={profile}"
    assert "data-running" in text(page.get(polled))
    stage = Stage.objects.get(pk=profile)
    work_off(stage)
    shown = page.get(polled)
    assert "data-running" not in text(shown)
    assert "would be cut from the left" in text(shown)
    prompt, responses = (item["figure"] for item in shown.context["histograms"])
    assert sum(prompt["data"][0]["y"]) == 30
    assert [trace["name"] for trace in responses["data"]] == ["chosen", "rejected"]
    assert prompt["layout"]["shapes"][0]["x0"] == 20
    assert sum(row[1] for row in prompt["table"]["rows"]) == 30


def test_lengths_are_measured_only_with_a_model_one_may_see(page: Client, researcher: User, admin: User) -> None:
    dataset = imported(researcher, "posts", json_lines(pairs(3)))
    hidden = RegisteredModel.objects.create(owner=admin, name="hidden", digest="d" * 64, shared=False)
    values = {"model": hidden.pk, "max_prompt_tokens": "1", "max_response_tokens": "1"}
    response = page.post(f"{dataset.get_absolute_url()}lengths/measure/", values)
    assert "valid choice" in text(response)


def test_a_dataset_is_shared_and_kept_private_by_its_owner(page: Client, researcher: User, admin: User) -> None:
    dataset = imported(researcher, "posts", json_lines(pairs(2)))
    assert "only researcher and admins see it" in text(page.post(f"{dataset.get_absolute_url()}share/", follow=True))
    dataset.refresh_from_db()
    assert not dataset.shared
    theirs = imported(admin, "theirs", json_lines(pairs(2)))
    response = page.post(f"{theirs.get_absolute_url()}share/")
    assert response.status_code == 403
    assert "Only admin or an admin may change who sees theirs." in text(response)


def test_the_list_is_searched_filtered_sorted_and_empty_states_say_what_to_do(page: Client, researcher: User) -> None:
    assert "No dataset yet" in text(page.get("/datasets/"))
    imported(researcher, "alpha", json_lines(pairs(2)), licence="MIT")
    imported(researcher, "beta", json_lines([{"prompt": "a", "target": "b"}]), kind="sft")

    def names(query: str) -> list[str]:
        return [item.name for item in page.get(f"/datasets/?{query}").context["page"]]

    assert names("") == ["beta", "alpha"]
    assert names("sort=name") == ["alpha", "beta"]
    assert names("sort=-rows") == ["alpha", "beta"]
    assert names("kind=sft") == ["beta"]
    assert names("q=mit") == ["alpha"]
    assert "No dataset matches" in text(page.get("/datasets/?q=nothing"))


def test_a_list_costs_the_same_number_of_queries_however_long(
    page: Client, researcher: User, django_assert_max_num_queries: Any
) -> None:
    parent = imported(researcher, "posts", json_lines(pairs(2)))
    for index in range(12):
        Dataset.objects.create(
            owner=researcher, name=f"copy {index}", kind="sft", task="dialogue", stage=parent.stage, derived_from=parent
        )
    with django_assert_max_num_queries(5):
        assert len(page.get("/datasets/").context["page"]) == 13


def test_a_dataset_of_prompts_alone_has_a_page_too(page: Client, researcher: User) -> None:
    dataset = imported(researcher, "asked", json_lines([{"prompt": f"why {i}?"} for i in range(12)]), kind="prompts")
    body = text(page.get(f"{dataset.get_absolute_url()}?q=WHY"))
    assert "12 rows with" in body
    assert "Make SFT dataset" not in body


def test_turns_of_a_dialogue_are_shown_with_their_speakers(page: Client, researcher: User) -> None:
    start = "\n\nHuman: hello\n\nAssistant: hi\n\nHuman: how are you?\n\nAssistant:"
    row = {"chosen": f"{start} fine, thank you", "rejected": f"{start} go away"}
    dataset = imported(researcher, "talk", json_lines([row]))
    shown = page.get(dataset.get_absolute_url())
    (only,) = shown.context["rows"].rows
    assert [turn["role"] for turn in only["turns"]] == ["user", "assistant", "user"]
    assert only["responses"] == [("chosen", "fine, thank you"), ("rejected", "go away")]
    assert "how are you?" in text(shown)


def test_data_or_a_model_that_the_store_has_lost_are_explained(page: Client, researcher: User) -> None:
    posts = imported(researcher, "posts", json_lines(pairs(3)))
    tiny = RegisteredModel.objects.create(owner=researcher, name="tiny", digest="d" * 64)
    shutil.rmtree(store().path(posts.digest))
    for item in (posts, tiny):
        response = page.get(item.get_absolute_url())
        assert response.status_code == 404
        assert "is not in the store" in text(response)


def test_texts_from_data_are_never_markup(page: Client, researcher: User) -> None:
    row = {"prompt": "<script>alert(1)</script>", "chosen": "<img src=x onerror=alert(1)>", "rejected": "</script>"}
    dataset = imported(researcher, "<b>hostile</b>", json_lines([row, "<script>bad</script>"]))
    body = text(page.get(dataset.get_absolute_url()))
    for markup in ("<script>alert", "<img src=x", "<b>hostile", "<script>bad"):
        assert markup not in body
