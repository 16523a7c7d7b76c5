"""Template tags and filters that every page shares: state, figures, times, icons, fields, pages.

A rate is a mapping {value, low, high, n} of fractions in [0, 1], as stages store it. A figure that is not there is
shown as a dash; a template passes it on as None or, where the whole name is unknown, as an empty text.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from django import template
from django.core.paginator import Page
from django.forms import BoundField
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.timesince import timesince

from webapp.runs.glossary import GLOSSARY
from webapp.runs.icons import ICONS
from webapp.runs.models import Status

register = template.Library()

_BINARY_UNITS = ("bytes", "KB", "MB", "GB", "TB")
_KILO = 1000
_LOPSIDED = 0.2  # of an interval's width: twice how far its middle may lie from the value
_MINUTE, _HOUR = 60, 3600
_STATUS_WORDS = {**dict(Status.choices), "needs_you": "needs you"}


@register.simple_tag
def icon(name: str) -> SafeString:
    """Return an inline icon; it is decoration, so a word must stand beside it or in aria-label."""
    return format_html('<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{}</svg>', mark_safe(ICONS[name]))  # noqa: S308 - our own constants


@register.simple_tag
def status_badge(status: str, word: str = "") -> SafeString:
    """Return a state as icon, word and colour; never colour alone."""
    name = "warning" if status in {"needs_you", "amber"} else status
    return format_html(
        '<span class="badge {}">{}<span>{}</span></span>', status, icon(name), word or _STATUS_WORDS[status]
    )


@register.filter
def percent(fraction: float | Literal[""] | None, digits: int = 1) -> str:
    """Return a fraction as "71.9 %", with a no-break space."""
    return "–" if fraction is None or fraction == "" else f"{100 * fraction:.{digits}f}\u00a0%"


def spread(low: float, value: float, high: float, form: str) -> str:
    """Return how far an interval reaches: "± 2.1", or "0.0 to 26.4" where its middle is clearly not the value.

    Half the width beside a share of 0 or 1 would promise values that no share can have.
    """
    if abs(low + high - 2 * value) > _LOPSIDED * (high - low):
        return f"{form.format(low)} to {form.format(high)}"
    return f"± {form.replace('+', '').format((high - low) / 2)}"


@register.filter
def interval(rate: Mapping[str, Any] | None) -> SafeString:
    """Return a rate with its 95 % interval and N: 71.9 % ± 2.1 (N 600), 0.0 % 0.0 to 26.4 (N 12)."""
    if not rate or rate.get("value") is None:
        return mark_safe('<span class="muted">–</span>')
    low, value, high = (100 * rate[end] for end in ("low", "value", "high"))
    count = rate.get("n")
    return format_html(
        '<span class="interval" title="95 % interval {} to {}">{} <span class="pm">{}</span>{}</span>',
        percent(rate["low"]),
        percent(rate["high"]),
        percent(rate["value"]),
        spread(low, value, high, "{:.1f}"),
        format_html(' <span class="n">(N\u00a0{})</span>', number(count)) if count is not None else "",
    )


@register.filter
def number(value: float | Literal[""] | None) -> str:
    """Return a number with thousands separated; a float with at most four significant digits."""
    if value is None or value == "":
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.4g}" if abs(value) < _KILO else f"{value:,.0f}"
    return f"{value:,.0f}"


@register.filter
def size(count: float | Literal[""] | None) -> str:
    """Return a number of bytes with its unit."""
    return _scaled(count, _BINARY_UNITS, " ")


@register.filter
def compact(count: float | Literal[""] | None) -> str:
    """Return a large count as 135 M, 1.7 B."""
    return _scaled(count, ("", "K", "M", "B", "T"), "\u00a0")


def _scaled(count: float | Literal[""] | None, units: tuple[str, ...], space: str) -> str:
    if count is None or count == "":
        return "–"
    value = float(count)
    for unit in units:
        # 999.96 would be written as 1000 of this unit: take the next one.
        if abs(value) < _KILO - 0.05 or unit == units[-1]:
            break
        value /= _KILO
    digits = f"{value:.0f}" if unit == units[0] else f"{value:.3g}"
    return f"{digits}{space}{unit}".strip()


@register.filter
def duration(seconds: float | Literal[""] | None) -> str:
    """Return a duration: 8.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds is None or seconds == "":
        return "–"
    if seconds < _MINUTE:
        return f"{seconds:.1f}\u00a0s" if seconds < _MINUTE / 6 else f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    if seconds < _HOUR:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


@register.filter
def ago(moment: datetime | None) -> SafeString:
    """Return a time relative to now; the script keeps it true and shows the exact time on hover."""
    if moment is None:
        return mark_safe('<span class="muted">–</span>')
    seconds = (timezone.now() - moment).total_seconds()
    words = "just now" if seconds < _MINUTE else f"{timesince(moment, depth=1)} ago"
    return format_html(
        '<time data-relative datetime="{}" title="{}">{}</time>',
        moment.isoformat(timespec="seconds"),
        f"{moment:%Y-%m-%d %H:%M:%S %Z}",
        words,
    )


@register.filter
def get(mapping: Mapping[Any, Any] | None, key: Any) -> Any:
    """Return mapping[key], or nothing."""
    return (mapping or {}).get(key)


@register.simple_tag
def copyable(value: str, shown: int = 8) -> SafeString:
    """Return an identifier cut to its first characters, with a button that copies all of it."""
    if not value:
        return mark_safe('<span class="muted">–</span>')
    return format_html(
        '<span class="nowrap"><code title="{0}">{1}</code><button type="button" class="copy" data-copy="{0}" aria-label="Copy">{2}</button></span>',
        value,
        value[:shown],
        icon("copy"),
    )


@register.inclusion_tag("_studio/explain.html")
def explain(key: str) -> dict[str, Any]:
    """Return the small "?" beside a term of the paper: definition, equation and link in a popover."""
    return {"key": key, "entry": GLOSSARY[key]}


@register.inclusion_tag("_studio/chart.html")
def chart(key: str, figure: Mapping[str, Any], label: str, css: str = "") -> dict[str, Any]:
    """Return a Plotly figure {data, layout} for charts.js; `label` says in words what it shows.

    `key` is unique on the page and stays the same when a polled part is replaced, so that the zoom is kept.
    """
    return {"key": key, "figure": figure, "label": label, "css": css}


@register.inclusion_tag("_studio/field.html")
def field(bound: BoundField, help_text: str = "") -> dict[str, Any]:
    """Return a form field with label, help and errors, tied together for screen readers."""
    kind = getattr(bound.field.widget, "input_type", "")
    # A field that only some choice of another makes necessary says so by its attribute `conditional`.
    optional = not bound.field.required and not getattr(bound.field, "conditional", False)
    return {"field": bound, "kind": kind, "help": help_text or bound.help_text, "optional": optional}


@register.inclusion_tag("_studio/errors.html")
def form_errors(form: Any) -> dict[str, Any]:
    """Return the summary of a form's errors for the top of the page, each with a link to its field."""
    fields = [(form[name], errors) for name, errors in form.errors.items() if name in form.fields]
    return {"fields": fields, "others": form.non_field_errors(), "any": bool(form.errors)}


@register.inclusion_tag("_studio/pages.html", takes_context=True)
def pagination(context: dict[str, Any], page: Page[Any], what: str = "rows") -> dict[str, Any]:
    """Return the foot of a table: which rows are shown, and links to the other pages."""
    return {"page": page, "what": what, "request": context["request"]}


@register.inclusion_tag("_studio/sort.html", takes_context=True)
def sort_header(context: dict[str, Any], key: str, label: str, css: str = "") -> dict[str, Any]:
    """Return a table header that sorts by `key`; the view reads ?sort=key or ?sort=-key."""
    current = context.get("sort") or context["request"].GET.get("sort", "")
    return {
        "request": context["request"],
        "label": label,
        "css": css,
        "direction": {"": None, key: "ascending", f"-{key}": "descending"}.get(current),
        "next": f"-{key}" if current == key else key,
    }
