"""Weight of the rating page and how soon it can be used, in Chromium with long texts."""

import os
import shutil
import time
from typing import Any

from benchmarks.rating_campaign import invitations, make_campaign
from benchmarks.rating_product import Served

_OPENED = 7  # times that the browser opens the page
_LONGEST_SECONDS = 20.0
_ENTRY = "performance.getEntriesByType('navigation')[0]"
_MEASURED = """() => {
    const entry = performance.getEntriesByType('navigation')[0];
    const paint = performance.getEntriesByName('first-contentful-paint')[0];
    const loaded = performance.getEntriesByType('resource').reduce((sum, one) => sum + one.decodedBodySize, 0);
    return {interactive: entry.domInteractive, ready: entry.domContentLoadedEventEnd, complete: entry.loadEventEnd,
            paint: paint ? paint.startTime : null, html: entry.decodedBodySize, loaded};
}"""


def in_browser(served: Served, owner: Any) -> dict[str, Any]:
    """Return the weight of a page with long texts, and how soon it can be used: empty cache, and with it."""
    from playwright.sync_api import sync_playwright

    campaign = make_campaign(owner, "browser", tasks=_OPENED + 1, replicas=1, long=True)
    token = invitations(campaign, owner, 1)[0]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"])
        context = chromium.new_context(base_url=served.url, viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.goto(f"/rate/invitation/{token}/")
        page.get_by_role("button", name="Accept").click()
        page.wait_for_selector("#task")
        address, state = page.url, context.storage_state()
        context.close()
        cold = [_opened(chromium, state, address, number) for number in range(_OPENED)]
        context = chromium.new_context(storage_state=state, viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.goto(address, wait_until="load")
        warm = [_timed(page, address, number) for number in range(_OPENED)]
        version = chromium.version
        chromium.close()
    return {
        "chromium": version,
        "html_bytes": cold[0]["html"],
        "all_bytes": cold[0]["html"] + cold[0]["loaded"],
        **{f"cold_{name}_ms": _middle(cold, name) for name in ("paint", "ready", "key", "complete")},
        **{f"warm_{name}_ms": _middle(warm, name) for name in ("paint", "ready", "key", "complete")},
        "slowest_key_ms": round(max(one["key"] for one in cold + warm), 1),
    }


def _opened(chromium: Any, state: Any, address: str, number: int) -> dict[str, Any]:
    context = chromium.new_context(storage_state=state, viewport={"width": 1280, "height": 900})
    try:
        return _timed(context.new_page(), address, number)
    finally:
        context.close()


def _timed(page: Any, address: str, number: int) -> dict[str, Any]:
    """Open the page; `key` is when a pressed key has scored a response: what a rater calls usable.

    Each time it is another key than the time before, which may have left its draft.
    """
    value = number % 5 + 1
    page.goto(address, wait_until="commit")
    _until(page, f"{_ENTRY}?.domContentLoadedEventEnd > 0")
    page.keyboard.press(str(value))
    _until(page, f"document.querySelector('input[name=q1]:checked')?.value === '{value}'")
    key = page.evaluate("performance.now()")
    _until(page, f"{_ENTRY}.loadEventEnd > 0")
    found: dict[str, Any] = page.evaluate(_MEASURED)
    return found | {"key": key}


def _until(page: Any, expression: str) -> None:
    """Ask until it is so. Playwright's own wait compiles text in the page, which the page forbids."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            message = f"in {_LONGEST_SECONDS:g} s it did not come to: {expression}"
            raise TimeoutError(message)


def _middle(found: list[dict[str, Any]], name: str) -> float:
    return round(sorted(one[name] or 0.0 for one in found)[len(found) // 2], 1)


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("RSO_CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)
