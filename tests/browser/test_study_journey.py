"""A researcher starts a table of the paper, watches it fill, opens a cell, compares two runs and takes the table along."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.windows import assert_fits, in_every_window, look_at
from tests.webapp.made_runs import finish_run, imported, launched
from webapp.accounts.models import User
from webapp.runs.models import Run
from webapp.studies.launching import launch_waiting
from webapp.studies.models import Study

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def runs_of(study: Study) -> list[Run]:
    return list(Run.objects.filter(study_cells__study=study).order_by("study_cells__order"))


def test_a_table_of_the_paper_from_the_form_to_its_latex(
    page: Page, researcher: User, sign_in: Callable[[User], None], axe: Callable[[Page], None]
) -> None:
    imported(researcher)
    base = launched(researcher)
    sign_in(researcher)
    page.goto("/")
    page.get_by_role("link", name="Studies").click()
    page.get_by_role("link", name="New study").first.click()
    axe(page)
    page.get_by_label(re.compile("^Table 3")).check()
    page.get_by_label("Base recipe", exact=True).select_option(f"run-{base.pk}")
    page.get_by_label("Seeds").fill("0")
    page.get_by_role("button", name="Show the cells").click()
    expect(page.get_by_text("3 arms × 1 seed")).to_be_visible()
    page.get_by_role("button", name="Start the study").click()
    expect(page.get_by_role("heading", name="Table 3")).to_be_visible()
    expect(page.get_by_text("0 of 3")).to_be_visible()

    # It fills while one looks at it.
    study = Study.objects.get()
    assert launch_waiting() == 3
    for run in runs_of(study):
        finish_run(run)
    expect(page.get_by_text("3 of 3")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("▲ clear").first).to_be_visible()
    expect(page.locator("[data-chart=study-chart] .plot svg").first).to_be_visible()
    axe(page)
    page.get_by_role("row", name=re.compile("^direct")).get_by_role("link", name="compare with this").click()
    expect(page.get_by_text("difference from")).to_be_visible()

    # A cell is a run; the cells of a seed stand beside each other.
    page.get_by_role("link", name="compare", exact=True).click()
    expect(page.get_by_role("heading", name="What differs in the recipes")).to_be_visible()
    expect(page.get_by_role("rowheader", name="pairs.pair_source")).to_be_visible()
    axe(page)
    page.get_by_role("link", name=re.compile("rso_sample_rank")).first.click()
    expect(page.get_by_role("heading", name=re.compile("rso_sample_rank"))).to_be_visible()
    page.goto(study.get_absolute_url())
    page.get_by_role("button", name="Download", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile("LaTeX")).click()
    assert r"\begin{tabular}" in Path(download.value.path()).read_text(encoding="utf-8")


@in_every_window
def test_the_pages_of_a_study_fit(
    page: Page, researcher: User, sign_in: Callable[[User], None], width: int, scheme: str
) -> None:
    imported(researcher)
    base = launched(researcher)
    sign_in(researcher)
    look_at(page, width, scheme)
    page.goto("/studies/new/?preset=table_3")
    assert_fits(page)
    page.get_by_label("Base recipe", exact=True).select_option(f"run-{base.pk}")
    page.get_by_label("Seeds").fill("0")
    page.get_by_role("button", name="Start the study").click()
    study = Study.objects.get()
    launch_waiting()
    for run in runs_of(study):
        finish_run(run)
    page.goto(f"{study.get_absolute_url()}?against=direct")
    expect(page.locator("[data-chart=study-chart] .plot svg").first).to_be_visible()
    assert_fits(page)
    page.goto("/runs/compare/?" + "&".join(f"run={run.pk}" for run in runs_of(study)))
    assert_fits(page)
    page.goto("/studies/")
    assert_fits(page)
