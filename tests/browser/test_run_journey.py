"""A run from the form to the policy on disk, with a real worker, as somebody does it who closes the tab meanwhile."""

import re
import subprocess
import zipfile
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from rso_core.config import RunConfig, dump_run_config
from tests.browser.conftest import Watch
from tests.browser.windows import assert_fits, in_every_window, look_at
from tests.rso_core.chain import PROMPTS, dataset_row, import_model, import_rows, texts, toy_config
from tests.webapp.made_runs import config_of, finish_run, imported, launched
from webapp.accounts.models import User
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset, RegisteredModel, Run, Stage

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

STARTED = 90_000  # milliseconds until a worker has started, or has done a stage on a busy machine
DONE = 400_000


def toy_data(owner: User) -> None:
    """Register the toy datasets and the toy model of the chain's tests, under the names its recipe uses."""
    prompts, targets, others = texts(PROMPTS, 6, seed=1), texts(PROMPTS, 4, seed=2), texts(PROMPTS, 3, seed=4)
    numbers = range(1, PROMPTS + 1)
    sft = [dataset_row(i, p, target=t) for i, p, t in zip(numbers, prompts, targets, strict=True)]
    human = [
        dataset_row(i, p, chosen=t, rejected=o) for i, p, t, o in zip(numbers, prompts, targets, others, strict=True)
    ]
    kept = {"owner": owner, "task": "summarization", "rows_in": PROMPTS, "rows_kept": PROMPTS}
    Dataset.objects.create(name="targets", kind="sft", digest=import_rows(store(), "sft", sft), **kept)
    Dataset.objects.create(name="pairs", kind="preference", digest=import_rows(store(), "preference", human), **kept)
    RegisteredModel.objects.create(owner=owner, name="toy", family="causal", digest=import_model(store(), "causal"))


def recipe() -> RunConfig:
    """The toy recipe, with a reward training long enough to be stopped in its middle."""
    return toy_config(
        sampling={"prompts_per_shard": 100}, reward={"max_steps": 800, "epochs": 1000, "checkpoint_every": 100}
    )


def watched_page(context: BrowserContext, watch: Watch) -> Page:
    page = context.new_page()
    page.on("console", watch.console)
    page.on("pageerror", watch.error)
    page.on("request", watch.request)
    return page


def _plan_and_launch(page: Page, axe: Callable[[Page], None]) -> None:
    """Load a recipe, preview it, and launch it once its counts are there."""
    page.goto("/runs/new/")
    page.locator("#section-recipe > summary").click()
    page.get_by_label("or text").fill(dump_run_config(recipe()))
    page.get_by_role("button", name="Load").click()
    expect(page.get_by_text("The recipe is loaded")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("journey")
    page.get_by_role("button", name="Preview the plan").click()
    expect(page.get_by_role("heading", name="Plan")).to_be_visible()
    expect(page.get_by_text("Time: not known yet")).to_be_visible()
    launch = page.get_by_role("button", name="Launch")
    expect(launch).to_be_enabled(timeout=STARTED)
    expect(page.locator(".tokens .special").first).to_be_visible()
    axe(page)
    launch.click()


@pytest.mark.timeout(600)
def test_a_run_is_launched_watched_left_stopped_resumed_explored_and_taken_home(
    page: Page,
    context: BrowserContext,
    watch: Watch,
    researcher: User,
    sign_in: Callable[[User], None],
    worker: subprocess.Popen[bytes],
    axe: Callable[[Page], None],
) -> None:
    toy_data(researcher)
    sign_in(researcher)

    _plan_and_launch(page, axe)

    # Watch, close the tab, come back.
    expect(page.get_by_role("heading", name="journey", level=1)).to_be_visible()
    running = page.locator(".run-state .badge.running")
    expect(running).to_be_visible(timeout=STARTED)
    page.close()
    page = watched_page(context, watch)
    page.goto("/runs/")
    page.get_by_role("link", name="journey").click()
    expect(page.locator(".box.done", has_text="SFT").first).to_be_visible(timeout=STARTED)
    expect(page.locator(".curve figcaption", has_text="loss").first).to_be_visible()

    # Stop and resume: what is finished stays.
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(page.get_by_role("heading", name="Stopped")).to_be_visible()
    finished = set(Stage.objects.filter(status="done").values_list("pk", "digest"))
    assert finished
    axe(page)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("goes on from what is finished")).to_be_visible()

    # The page itself finds out that the run has ended.
    expect(page.locator(".run-state .badge.done")).to_be_visible(timeout=DONE)
    expect(page.get_by_role("heading", name="Result", exact=True)).to_be_visible()
    expect(page.locator(".rate-value")).to_contain_text("%")
    expect(page.locator(".run-sides .record")).to_have_count(5)
    assert finished <= set(Stage.objects.filter(status="done").values_list("pk", "digest"))
    axe(page)

    # Explore the pairs of a prompt.
    page.get_by_role("link", name="Pairs", exact=True).click()
    expect(page.locator("[data-chart=reward-histogram] .plot svg").first).to_be_visible()
    axe(page)
    page.locator(".prompt-link").first.click()
    expect(page.locator("tr.candidate")).to_have_count(recipe().sampling.num_candidates + 1)  # and the baseline
    expect(page.locator("tr.candidate.kept")).to_have_count(recipe().rejection_sampling.num_samples)
    axe(page)

    # Take the policy home.
    page.get_by_role("button", name="Download").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Policy").click()
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert {"journey-policy/config.json", "journey-policy/model.safetensors"} <= set(names)
    page.close()


def test_a_wrong_value_is_found_from_the_summary_and_reset_without_losing_the_rest(
    page: Page, researcher: User, sign_in: Callable[[User], None], axe: Callable[[Page], None]
) -> None:
    imported(researcher)
    sign_in(researcher)
    page.goto("/runs/new/")
    page.get_by_label("Name", exact=True).fill("typed once")
    page.get_by_label("Task", exact=True).select_option("summarization")
    page.get_by_role("button", name=re.compile("^SLiC Random")).click()
    expect(page.get_by_label("Loss", exact=True)).to_have_value("hinge")
    page.locator("#section-sampling > summary").click()
    page.locator("[name='sampling.temperature']").fill("hot")
    page.keyboard.press("Enter")
    summary = page.get_by_role("alert")
    expect(summary).to_contain_text("Must be a number, received 'hot'")
    axe(page)
    summary.get_by_role("link", name="Temperature").click()
    field = page.locator("[id='field-sampling.temperature']")
    expect(field).to_be_in_viewport()
    field.get_by_role("button", name="reset to the paper’s value").click()
    expect(page.locator("[name='sampling.temperature']")).to_have_value("")
    expect(page.get_by_label("Name", exact=True)).to_have_value("typed once")
    page.get_by_role("button", name="Preview the plan").click()
    expect(page.get_by_role("heading", name="Plan")).to_be_visible()


@in_every_window
def test_every_page_of_a_run_fits_its_window_and_is_accessible(
    page: Page, researcher: User, sign_in: Callable[[User], None], axe: Callable[[Page], None], width: int, scheme: str
) -> None:
    imported(researcher)
    finished = finish_run(launched(researcher))
    going_on = finish_run(launched(researcher, config_of("second", seed=1)), until="policy_fitting")
    sign_in(researcher)
    look_at(page, width, scheme)
    for address in _addresses(finished, going_on):
        page.goto(address)
        assert_fits(page)
        axe(page)


def _addresses(finished: Run, going_on: Run) -> list[str]:
    own = finished.get_absolute_url()
    prompt = Stage.objects.get(kind="preference_pairs", run_stages__run=finished).pairs.values_list("prompt_id").first()
    assert prompt is not None
    return [
        "/runs/",
        f"/runs/new/?clone={finished.pk}",
        own,
        f"{own}pairs/",
        f"{own}pairs/{prompt[0]}/",
        f"{own}details/",
        going_on.get_absolute_url(),
    ]
