"""Template filters of the pages of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from webapp.runs.sharing import Owned, may_change
from webapp.runs.templatetags.studio import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from webapp.accounts.models import User

register = template.Library()


@register.filter
def points(difference: Mapping[str, Any] | None) -> SafeString:
    """Return a difference of two rates in points with its 95 % interval and N: +12.0 ± 3.1 points (N 600)."""
    if not difference or difference.get("value") is None:
        return mark_safe('<span class="muted">–</span>')
    value, half = 100 * difference["value"], 50 * (difference["high"] - difference["low"])
    return format_html(
        '<span class="interval" title="95 % interval {} to {} points">{} <span class="pm">± {} points</span> <span class="n">(N\u00a0{})</span></span>',
        f"{100 * difference['low']:+.1f}",
        f"{100 * difference['high']:+.1f}",
        f"{value:+.1f}".replace("-", "−"),
        f"{half:.1f}",
        number(difference.get("n")),
    )


@register.filter
def seen_by(item: Owned | None, user: User) -> bool:
    """Return whether this researcher may see the item, so that a page may name it."""
    return item is not None and (item.shared or may_change(user, item))


@register.filter
def hundredths(fraction: float | None) -> str:
    """Return a fraction as a number of hundredths with a point, for drawings 100 units wide."""
    return f"{100 * min(1.0, max(0.0, fraction or 0.0)):.2f}"


@register.filter
def ticks(text: str) -> SafeString:
    """Return a sentence with what stands between backticks as code."""
    parts = text.split("`")
    return format_html_join(
        "", "{}", ([format_html("<code>{}</code>", part) if odd % 2 else part] for odd, part in enumerate(parts))
    )


@register.simple_tag
def range_width(low: float, high: float) -> str:
    """Return the width of an interval in hundredths."""
    return f"{100 * max(0.0, high - low):.2f}"
