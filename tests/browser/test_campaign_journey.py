"""From a finished run to a campaign that hands out tasks, as a researcher does it; the responses by a real worker."""

import re
import subprocess
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.windows import assert_fits, in_every_window, look_at
from tests.rso_core.chain import PROMPTS, dataset_row, import_model, import_rows, texts, toy_config
from tests.webapp.human_eval.made_campaigns import answer, known_item, made_campaign, made_rater
from webapp.accounts.models import User
from webapp.human_eval.models import Campaign, Response, System
from webapp.human_eval.services import invite
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset, RegisteredModel, Run, Stage, Status
from webapp.runs.services import create_run, preview_plan

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SAMPLED = 150_000  # milliseconds until a worker has started and answered some prompts on a busy machine


def finished_run(owner: User) -> Run:
    """Return a run whose models are real toy models, as if workers had made them; nobody has asked them anything."""
    prompts, targets = texts(PROMPTS, 6, seed=1), texts(PROMPTS, 4, seed=2)
    rows = [dataset_row(i, p, target=t) for i, (p, t) in enumerate(zip(prompts, targets, strict=True), 1)]
    pairs = [
        dataset_row(i, p, chosen=t, rejected="no") for i, (p, t) in enumerate(zip(prompts, targets, strict=True), 1)
    ]
    kept = {"owner": owner, "task": "summarization", "rows_in": PROMPTS, "rows_kept": PROMPTS}
    Dataset.objects.create(name="targets", kind="sft", digest=import_rows(store(), "sft", rows), **kept)
    Dataset.objects.create(name="pairs", kind="preference", digest=import_rows(store(), "preference", pairs), **kept)
    base = import_model(store(), "causal")
    RegisteredModel.objects.create(owner=owner, name="toy", family="causal", digest=base)
    plan, _, _ = preview_plan(config=toy_config(), user=owner)
    run = create_run(plan=plan, config=toy_config(), user=owner, name="Toy RSO")
    run.stages.update(status=Status.DONE, digest=base)
    policy = import_model(store(), "causal", seed=1)
    run.stages.filter(kind="checkpoint_selection").update(digest=policy)
    run.stages.filter(kind="generation").update(status=Status.FAILED, digest="")
    Run.objects.filter(pk=run.pk).update(status=Status.DONE)
    return run


def _let_raters_in(page: Page, axe: Callable[[Page], None]) -> None:
    page.get_by_role("link", name="Letting raters in").click()
    page.locator("#id_notes").fill("Ada\nBo")
    page.get_by_role("button", name="Make invitations").click()
    expect(page.get_by_role("heading", name="2 invitations, shown only now")).to_be_visible()
    page.locator("#id_completion_code").fill("DONE-42")
    page.get_by_role("button", name="Make the panel link").click()
    expect(page.locator("#panel-address")).to_contain_text("PROLIFIC_PID={{%PROLIFIC_PID%}}")
    axe(page)


def _add_a_known_task(page: Page, axe: Callable[[Page], None]) -> None:
    page.get_by_role("link", name="Known tasks").click()
    page.get_by_role("button", name="Show one").click()
    expect(page.locator("#id_response_2")).to_have_value("no")
    page.get_by_role("button", name="Add the task").click()
    expect(page.get_by_role("heading", name="1 known task")).to_be_visible()
    axe(page)


@pytest.mark.timeout(600)
def test_a_campaign_is_made_from_a_run_filled_by_a_worker_and_opened(
    page: Page,
    researcher: User,
    sign_in: Callable[[User], None],
    worker: subprocess.Popen[bytes],
    axe: Callable[[Page], None],
) -> None:
    run = finished_run(researcher)
    sign_in(researcher)

    page.goto("/campaigns/")
    expect(page.get_by_role("heading", name="No campaign yet")).to_be_visible()
    axe(page)
    page.goto(run.get_absolute_url())
    page.get_by_role("link", name="Ask people").click()
    page.get_by_label("Name", exact=True).fill("Toy or people?")
    expect(page.get_by_label("System 1", exact=True)).to_have_value(f"policy:{run.pk}")
    expect(page.locator("#id_system_3")).to_have_value("target")
    page.get_by_label("Prompts of").select_option(label="targets")
    page.get_by_label("Prompts", exact=True).fill("6")
    expect(page.get_by_text(re.compile("6 prompts with 3 raters each"))).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Make the draft").click()

    expect(page.get_by_role("heading", name="Toy or people?")).to_be_visible()
    expect(page.get_by_role("button", name="Open", exact=True)).to_be_disabled()
    assert Stage.objects.filter(kind="responses").count() == 2
    # The page follows the worker by itself.
    expect(page.get_by_text("Everything is there: 6 tasks")).to_be_visible(timeout=SAMPLED)
    axe(page)
    sampled = Response.objects.filter(system__kind__in=[System.Kind.POLICY, System.Kind.SFT])
    assert sampled.count() == 12
    assert set(sampled.filter(index=0).values_list("text")) != set(sampled.filter(index=1).values_list("text"))

    _let_raters_in(page, axe)
    _add_a_known_task(page, axe)
    page.get_by_role("link", name="Settings").click()
    page.get_by_label("Check tasks, %").fill("5")
    axe(page)
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Open", exact=True).click()

    expect(page.get_by_text("is open: raters get tasks from now on")).to_be_visible()
    expect(page.get_by_role("heading", name="Answers")).to_be_visible()
    axe(page)
    campaign = Campaign.objects.get()
    assert (campaign.status, campaign.slots.count(), campaign.check_share) == ("open", 18, 0.05)
    page.get_by_role("button", name="Close").click()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(page.get_by_text("You may open it again")).to_be_visible()
    page.get_by_role("button", name="Open again").click()
    expect(page.get_by_text("is open: raters get tasks from now on")).to_be_visible()


@in_every_window
def test_every_page_of_campaigns_fits_its_window_and_is_accessible(
    page: Page, researcher: User, sign_in: Callable[[User], None], axe: Callable[[Page], None], width: int, scheme: str
) -> None:
    draft = made_campaign(
        researcher, items=4, status="draft", name="A draft with a name that is rather long for a list"
    )
    Dataset.objects.create(owner=researcher, name="targets", kind="sft", task="summarization", digest="0" * 64)
    known_item(draft, "qualification", feedback="The first one says what the post asks.")
    draft.items.get(index=1).responses.filter(index=0).update(text="As ChatGPT I would say no.", named="ChatGPT")
    draft.items.get(index=2).responses.filter(index=1).delete()
    lively = made_campaign(researcher, items=4, name="Summaries of posts", consent="I agree.")
    for _ in range(2):
        answer(lively, made_rater(lively))
    invite(lively, by=researcher, note="Ada", days=3)
    sign_in(researcher)
    look_at(page, width, scheme)
    parts = ("", "responses/", "access/", "known/", "settings/", "contents/")
    addresses = ["/campaigns/", "/campaigns/new/", *(f"/campaigns/{draft.pk}/{part}" for part in parts)]
    for address in (*addresses, f"/campaigns/{lively.pk}/", f"/campaigns/{lively.pk}/access/"):
        page.goto(address)
        assert_fits(page)
        axe(page)
