"""A researcher looks at what people said, decides about a rater, and makes a preference dataset of it for a new run."""

import random
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.windows import assert_fits, in_every_window, look_at
from tests.webapp.human_eval.made_campaigns import answer, made_campaign, made_rater, verdict
from tests.webapp.human_eval.test_results_figures import rated
from tests.webapp.made_runs import finish_run, launched
from tests.webapp.made_runs import imported as made_data
from tests.webapp.work import work_off
from webapp.accounts.models import User
from webapp.human_eval.models import Answer, Campaign, Exclusion, Flag
from webapp.human_eval.preference_export import preference_pairs
from webapp.human_eval.results import Options, campaign_figures
from webapp.runs.models import Dataset

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def lively(owner: User, *, items: int = 12) -> Campaign:
    """A campaign that is not empty anywhere: times, reasons, a flag, and a system that is a little better."""
    campaign = made_campaign(owner, items=items, name="Summaries of posts")
    rng = random.Random(5)  # noqa: S311 - not a secret
    people = [made_rater(campaign) for _ in range(campaign.replicas)]
    for _ in range(items):
        for rater in people:
            best = rng.choices([None, 0, 1, 2], [1, 6, 2, 1])[0]
            given = answer(campaign, rater, verdict(best=best, reason="it says what to do" if best == 0 else ""))
            Answer.objects.filter(pk=given.pk).update(active_ms=rng.randint(20_000, 60_000))
    Flag.objects.create(item=campaign.items.get(index=1), rater=people[0], reason="unsafe", note="please look")
    return campaign


def test_from_the_results_of_a_campaign_to_a_new_preference_dataset(
    page: Page, researcher: User, sign_in: Callable[[User], None], axe: Callable[[Page], None]
) -> None:
    campaign = lively(researcher)
    sign_in(researcher)
    page.goto(f"/campaigns/{campaign.pk}/results/")
    table = page.locator(".results-table")
    expect(table.get_by_role("row")).to_have_count(6)
    values = campaign_figures(campaign, Options()).values["results"]
    shown = f"{100 * values['systems'][0]['chosen']['value']:.1f}\u00a0%"
    expect(table.get_by_role("row", name=re.compile("policy-rso-7b"))).to_contain_text(shown)
    expect(page.locator("[data-chart=chart-chosen] .plot svg").first).to_be_visible()
    axe(page)

    # The tasks on which raters disagree most come first; a flag is settled.
    page.get_by_role("link", name="1 to settle").click()
    page.locator(".prompt-link").first.click()
    expect(page.get_by_role("heading", name="What raters said")).to_be_visible()
    expect(page.get_by_text("please look")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Settle").click()
    expect(page.get_by_role("button", name="Open again")).to_be_visible()
    assert Flag.objects.get().settled is not None

    # A rater is excluded with a reason, everything is computed again, and the decision is lifted.
    page.get_by_role("link", name="Raters", exact=True).click()
    axe(page)
    page.get_by_role("link", name=re.compile("^R-")).first.click()
    expect(page.get_by_text("12 counted answers would no longer count")).to_be_visible()
    axe(page)
    page.get_by_label("Reason").fill("chose without reading")
    page.get_by_role("button", name=re.compile("^Exclude R-")).click()
    expect(page.get_by_role("heading", name="Excluded")).to_be_visible()
    page.get_by_role("link", name="Results", exact=True).click()
    expect(page.get_by_text("24 of 36 answers count")).to_be_visible()
    expect(page.get_by_text("chose without reading")).to_be_visible()
    page.get_by_role("link", name=Exclusion.objects.get().rater.pseudonym).click()
    page.get_by_role("button", name="Lift the exclusion").click()
    expect(page.get_by_text("counts again.")).to_be_visible()
    assert campaign_figures(campaign, Options()).values["results"] == values

    # What people chose becomes a dataset, which the form of a new run offers.
    page.get_by_role("link", name="Make a preference dataset").click()
    axe(page)
    page.get_by_label("Name of the dataset").fill("what people chose")
    page.get_by_label(re.compile("^By vote")).check()
    page.get_by_role("button", name="Make the dataset").click()
    expect(page.get_by_text("A worker imports it now.")).to_be_visible()
    dataset = Dataset.objects.get()
    work_off(dataset.stage)
    dataset.refresh_from_db()
    assert dataset.rows_kept == len(preference_pairs(campaign, by="votes").rows)
    page.get_by_role("link", name="Launch a run with it").click()  # the page itself finds out
    expect(page.get_by_label("Preference dataset", exact=True)).to_have_value("what people chose")


def test_results_are_renewed_while_raters_answer(page: Page, researcher: User, sign_in: Callable[[User], None]) -> None:
    campaign = made_campaign(researcher)
    rater = made_rater(campaign)
    sign_in(researcher)
    page.goto(f"/campaigns/{campaign.pk}/results/")
    expect(page.get_by_role("heading", name="No figures yet")).to_be_visible()
    answer(campaign, rater)
    expect(page.locator(".results-table")).to_be_visible()
    expect(page.get_by_text("1 of 18 answers count")).to_be_visible()
    Campaign.objects.update(status="closed")
    expect(page.locator(".title-line .badge.done")).to_be_visible(timeout=30_000)


@in_every_window
def test_every_page_of_results_fits_its_window_and_is_accessible(
    page: Page, researcher: User, sign_in: Callable[[User], None], axe: Callable[[Page], None], width: int, scheme: str
) -> None:
    campaign = lively(researcher, items=6)
    made_data(researcher)
    run = finish_run(launched(researcher))
    campaign.systems.filter(index=0).update(kind="policy", run=run)
    two_way = rated(researcher, ((0, 0), (1, None)), way=2)
    sign_in(researcher)
    look_at(page, width, scheme)
    own, rater = f"/campaigns/{campaign.pk}/", campaign.answers.order_by("pk")[0].rater
    for address in (
        f"{own}results/", f"{own}items/", f"{own}items/1/", f"{own}raters/", f"{own}raters/{rater}/",
        f"{own}preferences/", f"/campaigns/{two_way.pk}/results/",
    ):  # fmt: skip
        page.goto(address)
        assert_fits(page)
        axe(page)
