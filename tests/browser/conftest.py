"""Journeys in Chromium: a live server over the test database, real workers, and a page that forgives nothing."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from django.conf import settings as django_settings
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright
from pytest_django.live_server_helper import LiveServer

from tests.workers.real_worker import real_worker
from webapp.accounts.models import User

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "test-results"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 60_000  # milliseconds: the machine may be busy with other tests
_IMPACTS = {"serious", "critical"}


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """One Chromium for all journeys."""
    with sync_playwright() as playwright:
        # Playwright's loop runs in this thread, and Django would take every query for one of a coroutine.
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


class Watch:
    """What went wrong on a page: errors on the console, and requests to other hosts."""

    def __init__(self, home: str) -> None:
        self.home, self.problems = home, list[str]()
        self.forgiven: list[str] = []  # patterns of messages that a test provokes on purpose

    def forgive(self, pattern: str) -> None:
        """Expect messages that match: a test that opens a page which is not there says so."""
        self.forgiven.append(pattern)

    def console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"console {message.type}: {message.text} ({message.location['url']})")

    def error(self, error: Any) -> None:
        self.problems.append(f"page error: {error}")

    def request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.home}/", "data:", "blob:")):
            self.problems.append(f"request to another host: {request.url}")

    def verdict(self) -> list[str]:
        return [text for text in self.problems if not any(re.search(pattern, text) for pattern in self.forgiven)]


@pytest.fixture
def home(live_server: LiveServer) -> str:
    """Where the product is; tests that need more than Django's pages start a web process and override this."""
    return live_server.url


@pytest.fixture
def context(browser: Browser, home: str) -> Iterator[BrowserContext]:
    """A browser profile of its own for each test."""
    context = browser.new_context(base_url=home, viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(TIMEOUT)
    yield context
    context.close()


@pytest.fixture
def watch(home: str) -> Watch:
    """What the page does wrong; a test may forgive what it provokes."""
    return Watch(home)


@pytest.fixture
def page(context: BrowserContext, watch: Watch, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page; the test fails on any console error and any request to another host. A failure leaves a screenshot."""
    page = context.new_page()
    page.on("console", watch.console)
    page.on("pageerror", watch.error)
    page.on("request", watch.request)
    yield page
    if request.node.stash.get(_FAILED, False) or watch.verdict():
        RESULTS.mkdir(exist_ok=True)
        name = re.sub(r"\W+", "-", request.node.name).strip("-")
        page.screenshot(path=RESULTS / f"{name}.png", full_page=True)
    assert watch.verdict() == []


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Note for the page that its test has failed."""
    report = yield
    if call.when == "call" and call.excinfo is not None:
        item.stash[_FAILED] = True
    return report


@pytest.fixture
def sign_in(context: BrowserContext, home: str) -> Callable[[User], None]:
    """Give the browser somebody's session, as the sign-in page would."""

    def give(user: User) -> None:
        client = Client()
        client.force_login(user)
        name = django_settings.SESSION_COOKIE_NAME
        context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": home}])

    return give


@pytest.fixture
def axe() -> Callable[[Page], None]:
    """Assert that a page has no serious accessibility finding."""

    def check(page: Page) -> None:
        found = Axe().run(page).response["violations"]
        serious = [
            f"{item['id']}: {item['help']} at {[node['target'] for node in item['nodes']][:5]}"
            for item in found
            if item["impact"] in _IMPACTS
        ]
        assert serious == [], page.url

    return check


@pytest.fixture
def worker(database_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real Celery worker with its runners, over the test's database and folder."""
    with real_worker(database_url, tmp_path, name="journey") as process:
        yield process
