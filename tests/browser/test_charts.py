"""Charts keep what a person has done to them while the page around them is replaced."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.webapp.work import imported, json_lines, pairs
from webapp.accounts.models import User
from webapp.runs.models import Dataset, RegisteredModel, Stage

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

HISTOGRAM = {"edges": [0, 10, 20, 30], "counts": [5, 20, 3], "total": 28, "median": 12, "p95": 21, "max": 29}


@pytest.fixture
def dataset(researcher: User) -> Dataset:
    """A dataset whose lengths have been measured."""
    dataset = imported(researcher, "posts", json_lines(pairs(28)))
    model = RegisteredModel.objects.create(owner=researcher, name="tiny", digest="a" * 64)
    counts = dict.fromkeys(("truncated_prompts", "excluded_rows", "reward_truncated", "reward_excluded"), 0)
    histograms = dict.fromkeys(("prompt", "chosen", "rejected"), HISTOGRAM)
    Stage.objects.create(
        fingerprint="f" * 64,
        kind="length_profile",
        queue="cpu",
        status="done",
        digest="b" * 64,
        config={"max_prompt_tokens": 25, "max_response_tokens": 128, "max_length": 1024},
        input_digests={"base": model.digest, "preferences": dataset.digest},
        summary={"datasets": {"preferences": {"rows": 28, **counts, "histograms": histograms}}},
    )
    return dataset


def test_a_chart_is_drawn_follows_the_theme_and_has_its_values_as_a_table(
    page: Page, researcher: User, dataset: Dataset, sign_in: Callable[[User], None], axe: Callable[[Page], None]
) -> None:
    sign_in(researcher)
    page.goto(dataset.get_absolute_url())
    chart = page.locator("[data-chart=lengths-prompt]")
    expect(chart.locator(".js-plotly-plot .bars path")).to_have_count(3)
    assert "median 12" in str(chart.get_attribute("aria-label"))
    assert page.get_by_role("button", name="Share chart").count() == 0  # it would send the chart elsewhere

    chart.get_by_text("Values as a table").click()
    expect(chart.get_by_role("row")).to_have_count(4)
    expect(chart.get_by_role("row").nth(2)).to_contain_text("10 to 19")
    axe(page)

    colour = "getComputedStyle(document.querySelector('[data-chart=lengths-prompt] .bars path')).fill"
    light = page.evaluate(colour)
    page.keyboard.press("t")
    page.wait_for_function(f"{colour} !== {light!r}")
    axe(page)


def test_zoom_and_open_table_survive_new_values(
    page: Page, researcher: User, dataset: Dataset, sign_in: Callable[[User], None]
) -> None:
    sign_in(researcher)
    page.goto(dataset.get_absolute_url())
    chart = page.locator("[data-chart=lengths-prompt]")
    expect(chart.locator(".js-plotly-plot .bars path")).to_have_count(3)
    chart.get_by_text("Values as a table").click()
    plot = "document.querySelector('[data-chart=lengths-prompt] .plot')"
    page.evaluate(f"Plotly.relayout({plot}, {{'xaxis.range': [5, 15]}})")

    stage = Stage.objects.get(kind="length_profile")
    stage.summary["datasets"]["preferences"]["histograms"]["prompt"]["counts"] = [5, 20, 99]
    stage.save()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as when the tab is shown again
    expect(chart.get_by_role("row").last).to_contain_text("99")
    assert page.evaluate(f"{plot}.layout.xaxis.range") == [5, 15]
