"""How often a page asks, and what it says when nobody answers. Time is the page's own and runs as the test says."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Watch
from tests.webapp.graphs import DIAMOND, run_of
from webapp.accounts.models import User
from webapp.runs.models import Run

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LIVE = "**/home/live/"


def open_home(page: Page) -> None:
    """Open Home and let time stand still."""
    page.clock.install(time=datetime(2026, 1, 1, tzinfo=UTC))
    page.goto("/")
    page.clock.pause_at(datetime(2026, 1, 1, 1, tzinfo=UTC))
    page.wait_for_timeout(300)  # real time, for what was due to be answered


def asked_within(page: Page, seconds: int) -> int:
    """Return how many times the page asks for its live part while so many seconds pass."""
    asked: list[str] = []

    def count(route: Route) -> None:
        asked.append(route.request.url)
        route.continue_()

    page.route(LIVE, count)
    for _ in range(seconds):
        page.clock.run_for(1000)
        page.wait_for_timeout(50)  # real time, for the answer to arrive
    page.unroute(LIVE)
    return len(asked)


def test_a_page_asks_often_while_something_runs_and_seldom_otherwise(
    page: Page, researcher: User, sign_in: Callable[[User], None]
) -> None:
    run_of(DIAMOND, researcher)
    sign_in(researcher)
    open_home(page)
    assert 5 <= asked_within(page, 20) <= 10  # fewer where answers are slow
    Run.objects.update(status="stopped")
    asked_within(page, 3)
    assert 1 <= asked_within(page, 20) <= 2


def test_a_server_that_does_not_answer_is_asked_less_and_less_and_the_page_says_so(
    page: Page, watch: Watch, researcher: User, sign_in: Callable[[User], None]
) -> None:
    watch.forgive("ERR_FAILED")
    sign_in(researcher)
    open_home(page)
    failed: list[str] = []
    page.route(LIVE, lambda route: (failed.append(route.request.url), route.abort())[1])
    for _ in range(120):
        page.clock.run_for(1000)
        page.wait_for_timeout(20)
    assert 3 <= len(failed) <= 4  # after 10, 30, 70 and 130 seconds at most, where 12 were due
    expect(page.get_by_text("The server does not answer")).to_be_visible()

    page.unroute(LIVE)
    page.clock.run_for(61_000)
    expect(page.get_by_text("The server does not answer")).to_have_count(0)


def test_somebody_signed_out_elsewhere_is_led_to_the_sign_in_page(
    page: Page, researcher: User, sign_in: Callable[[User], None]
) -> None:
    sign_in(researcher)
    open_home(page)
    page.context.clear_cookies()
    page.clock.run_for(11_000)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
