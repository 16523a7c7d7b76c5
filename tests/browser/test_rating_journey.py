"""Rating in Chromium: by keyboard only, on a phone, from an invitation to the completion code, and without a script.

What was answered is read from the database, never from the screen.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from pytest_django.live_server_helper import LiveServer

from tests.browser.conftest import TIMEOUT, Watch
from tests.webapp.human_eval.made_campaigns import known_item, made_campaign, made_rater
from webapp.accounts.models import User
from webapp.human_eval.models import Answer, Campaign, Flag, Invitation, Item, PanelLink, Rater, Response, Skip, Slot
from webapp.human_eval.rater_access import token_hash

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PROMPT = "My flatmate has not paid **his** share since May.\n\nI like him, but I cannot go on like this. What now?"
TEXTS = ("Talk to him *today*.", "Flatmate owes rent; the author asks\n\n- what to say\n- when", "Move out.")


@pytest.fixture
def campaign(researcher: User) -> Campaign:
    campaign = made_campaign(researcher, items=5, replicas=2)
    Item.objects.update(prompt=PROMPT)
    for index, text in enumerate(TEXTS):
        Response.objects.filter(index=index).update(text=text)
    return campaign


@pytest.fixture
def at_work(campaign: Campaign, rater: User, sign_in: Callable[[User], None], page: Page) -> Page:
    """The rating page in the browser of somebody who takes part."""
    made_rater(campaign, user=rater)
    sign_in(rater)
    page.goto(f"/rate/{campaign.pk}/")
    return page


def heading(page: Page, words: str) -> None:
    expect(page.get_by_role("heading", level=1, name=re.compile(words))).to_be_focused()


def by_index(given: Answer) -> list[int | None]:
    """Return the scores of an answer from left to right, as its rater saw the responses."""
    return [getattr(given, f"quality_{index}") for index in given.order]


def until(count: int, rows: Any = None) -> None:
    """Wait until so many answers are stored: they are sent behind the rater's back."""
    page_rows = Answer.objects if rows is None else rows
    for _ in range(200):
        if page_rows.count() >= count:
            return
        _PAGES[-1].wait_for_timeout(50)
    assert page_rows.count() == count


_PAGES: list[Page] = []


@pytest.fixture(autouse=True)
def _current(page: Page) -> Iterator[None]:
    _PAGES.append(page)
    yield
    _PAGES.pop()


def test_a_rater_works_by_keyboard_alone(at_work: Page, campaign: Campaign, axe: Callable[[Page], None]) -> None:
    keyboard = at_work.keyboard
    heading(at_work, "Task 1")
    axe(at_work)
    keyboard.press("Enter")
    expect(at_work.locator("#state")).to_have_text(
        "Still missing: the score of Response 1, the score of Response 2, the score of Response 3, which is the best."
    )
    for key in "425":
        keyboard.press(key)
    keyboard.press("b")
    keyboard.press("3")
    keyboard.press("Enter")
    heading(at_work, "Task 2")  # at once: it was fetched while the first was read
    until(1)
    first = Answer.objects.get()
    assert by_index(first) == [4, 2, 5]
    assert first.choice == int(first.order[2])
    assert not first.contradicts

    # About the same, with a reason; the choice contradicts nothing.
    for key in "333":
        keyboard.press(key)
    keyboard.press("b")
    keyboard.press("0")
    keyboard.press("Tab")
    keyboard.type("Both b and s are letters here.")
    keyboard.press("Control+Enter")
    heading(at_work, "Task 3")
    until(2)
    second = Answer.objects.latest("pk")
    assert (second.same, second.choice, second.reason) == (True, None, "Both b and s are letters here.")

    # A contradiction is asked about once, and kept.
    for key in "152":
        keyboard.press(key)
    keyboard.press("b")
    keyboard.press("1")
    keyboard.press("Enter")
    expect(at_work.locator("#contradiction")).to_be_focused()
    assert Answer.objects.count() == 2
    axe(at_work)
    keyboard.press("Enter")
    heading(at_work, "Task 4")
    until(3)
    third = Answer.objects.latest("pk")
    assert third.contradicts
    assert by_index(third) == [1, 5, 2]


def test_the_last_answer_skips_and_flags_are_a_key_away(
    at_work: Page, campaign: Campaign, axe: Callable[[Page], None]
) -> None:
    keyboard = at_work.keyboard
    for key in ("1", "5", "2", "b", "2", "Enter"):
        keyboard.press(key)
    heading(at_work, "Task 2")
    until(1)
    first = Answer.objects.get()
    keyboard.press("u")
    heading(at_work, "My last answer")
    keyboard.press("j")
    keyboard.press("j")
    keyboard.press("5")
    keyboard.press("Enter")
    heading(at_work, "Task 2")
    first.refresh_from_db()
    assert by_index(first) == [1, 5, 5]
    assert first.versions.count() == 1

    keyboard.press("r")
    expect(at_work.locator("#prompt .as-written")).to_have_text(PROMPT)
    expect(at_work.locator("#prompt .laid-out")).to_be_hidden()
    keyboard.press("f")
    keyboard.press("ArrowDown")
    at_work.get_by_role("button", name="Send the flag").focus()
    keyboard.press("Enter")
    heading(at_work, "Task 2")
    assert Flag.objects.get().reason == "unsafe"
    keyboard.press("s")
    keyboard.press("Enter")
    heading(at_work, "Task 2")
    assert Skip.objects.get().reason == "unclear"
    keyboard.press("?")
    expect(at_work.locator("#shortcuts")).to_be_visible()
    axe(at_work)


def test_a_draft_comes_back_after_a_reload_and_time_is_counted_once(at_work: Page, campaign: Campaign) -> None:
    for key in "41":
        at_work.keyboard.press(key)
    at_work.get_by_label("Reason").fill("half way")
    at_work.wait_for_timeout(1200)
    at_work.reload()
    expect(at_work.locator("input[name=q1][value='4']")).to_be_checked()
    expect(at_work.locator("input[name=q2][value='1']")).to_be_checked()
    expect(at_work.get_by_label("Reason")).to_have_value("half way")
    slot = Slot.objects.get(ahead=False, status="leased")
    assert slot.draft == {"q1": "4", "q2": "1", "reason": "half way"}  # told to the server while leaving
    assert 1000 < slot.active_ms < 20_000
    at_work.keyboard.press("Escape")
    at_work.locator("input[name=q3][value='1']").check(force=True)
    at_work.locator("input[name=best][value='1']").check(force=True)
    at_work.get_by_role("button", name="Submit").last.click()
    until(1)
    given = Answer.objects.get()
    assert given.reason == "half way"
    assert 1000 < given.active_ms <= given.elapsed_ms


def test_answers_outlive_a_lost_connection(
    at_work: Page, campaign: Campaign, context: BrowserContext, watch: Watch
) -> None:
    watch.forgive(r"ERR_INTERNET_DISCONNECTED|Failed to load resource")
    fetched = "performance.getEntriesByType('resource').some((entry) => entry.name.endsWith('/ahead/'))"
    while not at_work.evaluate(fetched):
        at_work.wait_for_timeout(50)
    at_work.wait_for_timeout(300)
    context.set_offline(True)
    for key in ("5", "3", "1", "b", "1", "Enter"):
        at_work.keyboard.press(key)
    heading(at_work, "Task 2")
    expect(at_work.locator("#state")).to_contain_text("Your answer is kept on this device")
    for key in ("4", "4", "5", "b", "3", "Enter"):
        at_work.keyboard.press(key)
    expect(at_work.locator("#state")).to_contain_text("2 answers are kept on this device")
    assert Answer.objects.count() == 0
    context.set_offline(False)
    heading(at_work, "Task 3")
    until(2)
    assert [by_index(given) for given in Answer.objects.order_by("pk")] == [[5, 3, 1], [4, 4, 5]]
    assert set(Answer.objects.values_list("standing", flat=True)) == {"counted"}


def phone(browser: Browser, live_server: LiveServer, **options: Any) -> BrowserContext:
    context = browser.new_context(
        base_url=live_server.url, viewport={"width": 400, "height": 820}, has_touch=True, is_mobile=True, **options
    )
    context.set_default_timeout(TIMEOUT)
    return context


def watched(context: BrowserContext, watch: Watch) -> Page:
    page = context.new_page()
    page.on("console", watch.console)
    page.on("pageerror", watch.error)
    page.on("request", watch.request)
    return page


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_from_an_invitation_to_the_end_on_a_phone(
    browser: Browser,
    live_server: LiveServer,
    watch: Watch,
    campaign: Campaign,
    axe: Callable[[Page], None],
    scheme: str,
) -> None:
    Campaign.objects.update(consent="We keep your answers.", max_items_per_rater=2)
    Invitation.objects.create(campaign=campaign, token_hash=token_hash("abc"), expires="2099-01-01T00:00:00Z")
    context = phone(browser, live_server, color_scheme=scheme)
    page = watched(context, watch)
    page.goto("/rate/invitation/abc/")
    axe(page)
    page.get_by_role("button", name="Accept the invitation").tap()
    expect(page.get_by_role("heading", name="What you agree to")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="I agree, start").tap()
    for number in (1, 2):
        heading(page, f"Task {number}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        bar = page.get_by_role("navigation", name="Jump to")
        for place, score in ((1, 4), (2, 2), (3, 5)):
            bar.get_by_role("link", name=f"Response {place}").tap()
            expect(bar).to_be_in_viewport()
            page.locator(f"label:has(input[name=q{place}][value='{score}'])").tap()
        bar.get_by_role("link", name="Best").tap()
        page.locator("label:has(input[name=best][value='3'])").tap()
        axe(page)
        small = page.evaluate(
            """[...document.querySelectorAll("main a, main button:not(.sr), main summary, main label:has(input), main textarea")]
            .filter((item) => item.checkVisibility()).map((item) => [item.textContent.trim().slice(0, 20), item.getBoundingClientRect()])
            .filter(([, box]) => box.height < 48 || box.width < 48).map(([name, box]) => `${name} ${box.width}x${box.height}`)"""
        )
        assert small == []
        page.locator("#submit").tap()
    heading(page, "You have rated all you may")
    axe(page)
    assert [by_index(given) for given in Answer.objects.order_by("pk")] == [[4, 2, 5]] * 2
    assert all(given.choice == int(given.order[2]) for given in Answer.objects.all())
    assert Rater.objects.get().origin == "invitation"
    context.close()
    assert watch.verdict() == []


def test_a_panels_participant_gets_from_the_link_to_the_completion_code(
    page: Page, campaign: Campaign, axe: Callable[[Page], None], context: BrowserContext
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    Campaign.objects.update(max_items_per_rater=1, qualification_pass=0)
    known_item(campaign, "qualification", expected=1, feedback="The second says more.")
    PanelLink.objects.create(
        campaign=campaign, token_hash=token_hash("abc"), completion_code="C0DE-77", return_url="https://panel.example/"
    )
    page.goto("/rate/panel/abc/?PROLIFIC_PID=p-77&SESSION_ID=s-1")
    axe(page)
    page.get_by_role("button", name="Continue").click()
    heading(page, "Practice task 1")
    for key in ("3", "3", "3", "b", "1", "Enter"):
        page.keyboard.press(key)
    heading(page, "expected")
    axe(page)
    page.get_by_role("link", name="Next task").click()
    heading(page, "Task 1")
    for key in ("3", "3", "4", "b", "3", "Enter"):
        page.keyboard.press(key)
    heading(page, "You have rated all you may")
    axe(page)
    page.get_by_role("button", name="Copy the code").click()
    assert page.evaluate("navigator.clipboard.readText()") == "C0DE-77"
    expect(page.get_by_role("link", name="Finish at the panel’s site")).to_have_attribute("rel", "noreferrer")
    rater = Rater.objects.get()
    assert (rater.panel_id, rater.answers.count(), rater.participations.get().panel_session) == ("p-77", 2, "s-1")
    assert rater.participations.get().finished is not None


def test_everything_works_without_a_script(
    browser: Browser, live_server: LiveServer, campaign: Campaign, watch: Watch, rater: User
) -> None:
    Invitation.objects.create(campaign=campaign, token_hash=token_hash("abc"), expires="2099-01-01T00:00:00Z")
    context = phone(browser, live_server, java_script_enabled=False)
    page = watched(context, watch)
    page.goto("/rate/invitation/abc/")
    page.get_by_role("button", name="Accept the invitation").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Task 1")
    page.locator("label:has(#raw)").click()
    expect(page.locator("#prompt .as-written")).to_be_visible()
    expect(page.locator("#prompt .laid-out")).to_be_hidden()
    for place, score in ((1, 1), (2, 5), (3, 3)):
        page.locator(f"label:has(input[name=q{place}][value='{score}'])").click()
    page.locator("label:has(input[name=best][value='1'])").click()
    page.locator("#submit").click()
    expect(page.locator("#contradiction")).to_be_visible()
    assert not Answer.objects.exists()
    page.locator("#submit").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Task 2")
    given = Answer.objects.get()
    assert by_index(given) == [1, 5, 3]
    assert (given.choice, given.contradicts) == (int(given.order[0]), True)
    page.get_by_role("link", name="Edit my last answer").click()
    page.locator("label:has(input[name=best][value='2'])").click()
    page.get_by_role("button", name="Save the change").click()
    given.refresh_from_db()
    assert (given.choice, given.contradicts) == (int(given.order[1]), False)
    page.locator("#skip summary").click()
    page.get_by_role("button", name="It is upsetting").click()
    assert Skip.objects.get().reason == "upsetting"
    context.close()
    assert watch.verdict() == []


def test_the_page_is_usable_within_a_second(at_work: Page, campaign: Campaign) -> None:
    at_work.reload()
    ready = at_work.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert ready < 1000, f"{ready:.0f} ms until keys work"
