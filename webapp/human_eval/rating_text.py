"""Text of people and models as raters read it: Markdown without HTML, then cleaned; nothing in it loads or leads away.

Prompts and responses go through the same function, so that rendering cannot tell one system from another. Pictures
and links stay what was written, letter by letter: a picture is a request to another host, an address often names who
wrote the text.
"""

from functools import lru_cache

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

_KEPT = 2048  # rendered texts of a process: of what is handed out now
_TAGS = frozenset(
    "p br hr em strong s code pre blockquote ul ol li h3 h4 h5 h6 table thead tbody tr th td".split()  # noqa: SIM905
)
_markdown = MarkdownIt(
    "commonmark", {"html": False, "linkify": False, "breaks": True, "typographer": False, "maxNesting": 20}
)
_markdown.enable(["table", "strikethrough"]).disable(["image", "link", "autolink", "reference", "html_block"])
_cleaner = nh3.Cleaner(
    tags=set(_TAGS),
    clean_content_tags={"script", "style"},
    attributes={"ol": {"start"}},
    link_rel=None,
    url_schemes=set(),
)


@lru_cache(maxsize=_KEPT)
def rendered(text: str) -> SafeString:
    """Return a text as HTML that is safe to stand in a page and asks no other host for anything."""
    return mark_safe(_cleaner.clean(_lowered(_markdown.render(text))))  # noqa: S308 - cleaned by an allow-list


def _lowered(html: str) -> str:
    """Put headings below those of the page: a response that begins with a title must not outrank its own label."""
    for level in (6, 5, 4, 3, 2, 1):
        lower = min(6, level + 2)
        html = html.replace(f"<h{level}>", f"<h{lower}>").replace(f"</h{level}>", f"</h{lower}>")
    return html
