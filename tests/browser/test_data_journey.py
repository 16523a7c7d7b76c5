"""From the one-time link to two imported datasets, as somebody does it who opens the product for the first time."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from tests.browser.conftest import Watch
from tests.browser.windows import assert_fits, in_every_window, look_at
from tests.webapp.work import imported, json_lines, keep, pairs, work_off
from webapp.accounts.first_sign_in import first_sign_in_path
from webapp.accounts.models import Role, User
from webapp.runs import services

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PASSWORD = "an uncommon sentence 42"
IMPORTED = 60_000  # milliseconds until a worker has started and read the file


def test_somebody_signs_in_for_the_first_time_and_brings_in_preferences(
    page: Page, live_server: LiveServer, worker: subprocess.Popen[bytes], tmp_path: Path, axe: Callable[[Page], None]
) -> None:
    newcomer = User(username="newcomer", role=Role.RESEARCHER)
    newcomer.set_unusable_password()
    newcomer.save()
    page.goto(first_sign_in_path(newcomer))
    axe(page)
    page.get_by_label("New password", exact=True).fill(PASSWORD)
    page.get_by_label("New password confirmation").fill(PASSWORD)
    page.get_by_role("button", name="Set password and sign in").click()
    expect(page.get_by_role("heading", name="First steps")).to_be_visible()
    axe(page)

    file = tmp_path / "preferences.jsonl"
    file.write_bytes(json_lines([*pairs(30), "not json", {"prompt": "p", "chosen": "same", "rejected": "same"}]))
    page.get_by_role("link", name="Import a dataset").click()
    page.get_by_label("File", exact=True).set_input_files(file)
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("alert")).to_contain_text("Name")
    axe(page)
    # The file stays; only the name was missing.
    expect(page.get_by_text("preferences.jsonl is here already")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("my preferences")
    page.get_by_role("button", name="Import").click()

    # The page itself finds out that the import has ended.
    expect(page.get_by_role("heading", name="Rejected rows")).to_be_visible(timeout=IMPORTED)
    rejected = page.get_by_role("region", name="Rejected rows").get_by_role("table")
    expect(rejected.get_by_role("row")).to_have_count(3)
    expect(rejected).to_contain_text("the record is not valid JSON")
    expect(rejected).to_contain_text("chosen and rejected are the same text")
    axe(page)

    page.get_by_role("button", name="Make SFT dataset").click()
    expect(page.get_by_role("heading", name="my preferences targets", level=1)).to_be_visible()
    expect(page.get_by_text("good answer 0", exact=True)).to_be_visible(timeout=IMPORTED)

    page.get_by_role("link", name="Datasets").first.click()
    expect(page.get_by_role("row")).to_have_count(3)
    axe(page)


def test_rejected_rows_are_downloaded_and_rows_searched(
    page: Page, researcher: User, sign_in: Callable[[User], None]
) -> None:
    dataset = imported(researcher, "posts", json_lines([*pairs(25), "=1+1"]))
    sign_in(researcher)
    page.goto(dataset.get_absolute_url())
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert "'=1+1" in download.value.path().read_text(encoding="utf-8-sig")

    page.keyboard.press("/")
    page.keyboard.type("good answer 17")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 row with")).to_be_visible()
    expect(page.get_by_text("question 17", exact=True)).to_be_visible()

    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Show split").click()
    expect(page).to_have_url(re.compile("split_seed=7.*#splits"))
    expect(page.get_by_text("1 row with")).to_be_visible()


def test_a_failed_import_is_removed_only_after_a_question(
    page: Page, researcher: User, sign_in: Callable[[User], None], axe: Callable[[Page], None]
) -> None:
    dataset = services.request_dataset_import(
        owner=researcher, name="empty", kind="sft", task="dialogue", config={}, upload_digest=keep(b"[]", "rows.json")
    )
    work_off(dataset.stage)
    sign_in(researcher)
    page.goto(dataset.get_absolute_url())
    page.get_by_role("link", name="Delete …").click()
    expect(page.get_by_role("heading", name="Delete empty?")).to_be_visible()
    axe(page)
    page.get_by_role("link", name="Keep it").click()
    expect(page).to_have_url(re.compile(re.escape(dataset.get_absolute_url()) + "$"))
    page.get_by_role("link", name="Delete …").click()
    page.get_by_role("button", name="Delete empty").click()
    expect(page.get_by_text("empty was deleted.")).to_be_visible()


@in_every_window
def test_every_page_fits_its_window_and_is_accessible(
    page: Page, admin: User, sign_in: Callable[[User], None], axe: Callable[[Page], None], width: int, scheme: str
) -> None:
    dataset = imported(admin, "posts", json_lines([*pairs(12), "broken"]))
    services.request_model_import(owner=admin, name="tiny", config={"mini_tldr": {}})
    sign_in(admin)
    look_at(page, width, scheme)
    addresses = [
        "/",
        "/datasets/",
        "/datasets/new/",
        "/models/",
        "/models/new/",
        "/account/",
        "/people/",
        "/people/new/",
    ]
    for address in [*addresses, dataset.get_absolute_url()]:
        page.goto(address)
        assert_fits(page)
        axe(page)


def test_what_is_not_there_says_so_in_the_look_of_the_product(
    page: Page, watch: Watch, rater: User, sign_in: Callable[[User], None], axe: Callable[[Page], None]
) -> None:
    watch.forgive("status of 40[34]")
    page.goto("/nothing/")
    expect(page.get_by_role("heading", name="There is nothing at this address")).to_be_visible()
    axe(page)
    sign_in(rater)
    page.goto("/datasets/")
    expect(page.get_by_text("This page is for researchers")).to_be_visible()
