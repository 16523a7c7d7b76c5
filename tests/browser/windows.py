"""The windows in which every page must fit and be accessible."""

from itertools import product

import pytest
from playwright.sync_api import Page

WIDTHS = (400, 900, 1600)
SCHEMES = ("light", "dark")
FIRST = {(400, "dark"), (1600, "light")}  # what goes wrong in the others mostly shows in one of these, too

in_every_window = pytest.mark.parametrize(
    ("width", "scheme"),
    [pytest.param(*window, marks=[] if window in FIRST else [pytest.mark.slow]) for window in product(WIDTHS, SCHEMES)],
)


def look_at(page: Page, width: int, scheme: str) -> None:
    """Give the page a window of this width and colour scheme, in which nothing moves."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 900})


def assert_fits(page: Page) -> None:
    """Fail when the page is wider than its window."""
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(fits), page.url
