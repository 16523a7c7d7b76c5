"""Template tags of the audit log."""

import json
from typing import Any

from django import template
from django.db.models import Model
from django.urls import NoReverseMatch, reverse

from webapp.accounts.audit import history
from webapp.accounts.models import AuditEntry

register = template.Library()

_PAGES = {"run": "run", "dataset": "dataset", "registered model": "model", "campaign": "campaign", "user": "person"}


@register.inclusion_tag("accounts/_history.html", takes_context=True)
def audit_history(context: dict[str, Any], thing: Model) -> dict[str, Any]:
    """Return who did what to one thing, the newest first; for whoever may change it."""
    return {"entries": history(thing), "thing": thing, "user": context["request"].user}


@register.filter
def page_of(entry: AuditEntry) -> str:
    """Return the address of the page of what an entry tells of, empty where there is none."""
    name = _PAGES.get(entry.kind)
    if name is None or entry.number is None or entry.action == "removed":
        return ""
    try:
        return reverse(name, args=[entry.number])
    except NoReverseMatch:
        return ""


@register.filter
def in_words(details: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the details of an entry as names and values for people."""
    return [(key.replace("_", " "), _value(value)) for key, value in details.items() if value not in ("", None)]


def _value(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"from", "to"}:
        return f"{_value(value['from'])} → {_value(value['to'])}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
