"""Template filters of the results pages: means and differences with their intervals, p-values, seconds."""

from collections.abc import Mapping
from typing import Any, Literal

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from webapp.runs.templatetags.studio import number, spread

register = template.Library()

_NOTHING = mark_safe('<span class="muted">–</span>')
_SMALLEST_P = 0.001


def _minus(text: str) -> str:
    return text.replace("-", "−")


@register.filter
def mean_interval(mean: Mapping[str, Any] | None) -> SafeString:
    """Return a mean with its 95 % interval and N: 3.84 ± 0.07 (N 200)."""
    return _with_interval(mean, "{:.2f}", 1.0)


@register.filter
def signed_interval(mean: Mapping[str, Any] | None) -> SafeString:
    """Return a difference of means with its sign and 95 % interval: +0.31 ± 0.10 (N 200)."""
    return _with_interval(mean, "{:+.2f}", 1.0)


@register.filter
def points_interval(difference: Mapping[str, Any] | None) -> SafeString:
    """Return a difference of shares in points with its sign and 95 % interval: +12.0 ± 6.1 points."""
    return _with_interval(difference, "{:+.1f}", 100.0)


def _with_interval(mean: Mapping[str, Any] | None, form: str, scale: float) -> SafeString:
    if not mean or mean.get("value") is None:
        return _NOTHING
    low, value, high = (scale * mean[end] for end in ("low", "value", "high"))
    return format_html(
        '<span class="interval" title="95 % interval {} to {}">{} <span class="pm">{}</span> <span class="n">(N\u00a0{})</span></span>',
        _minus(form.format(low)),
        _minus(form.format(high)),
        _minus(form.format(value)),
        _minus(spread(low, value, high, form)),
        number(mean.get("n")),
    )


@register.filter
def p_value(p: float | Literal[""] | None) -> str:
    """Return a p-value with three decimals, small ones as "< 0.001"."""
    if p is None or p == "":
        return "–"
    return f"< {_SMALLEST_P}" if p < _SMALLEST_P else f"{p:.3f}"


@register.filter
def coefficient(value: float | Literal[""] | None) -> str:
    """Return an agreement coefficient or a severity with two decimals and a true minus; a dash where there is none."""
    return "–" if value is None or value == "" else _minus(f"{round(value, 2) + 0:.2f}")  # + 0: no minus before 0.00


@register.filter
def share_of(part: float | None, whole: float | None) -> str:
    """Return a part of a whole as per cent."""
    return "–" if part is None or not whole else f"{100 * part / whole:.0f}\u00a0%"


@register.filter
def coefficient_interval(found: Mapping[str, Any] | None) -> SafeString:
    """Return a coefficient with its 95 % interval, or why it does not exist."""
    if not found:
        return _NOTHING
    if found["value"] is None:
        return format_html('<span class="muted wrapping">{}</span>', found["undefined"])
    if found["low"] is None:
        return format_html("{}", coefficient(found["value"]))
    return format_html(
        '{} <span class="pm small muted">{} to {}</span>',
        coefficient(found["value"]),
        coefficient(found["low"]),
        coefficient(found["high"]),
    )


@register.filter
def seconds(milliseconds: int | None) -> float | None:
    """Return milliseconds as seconds."""
    return None if milliseconds is None else milliseconds / 1000
