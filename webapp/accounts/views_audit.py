"""The audit log for admins: filtered, read page by page from the newest on, downloaded."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

from django import forms
from django.db.models import QuerySet
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_safe

from webapp.accounts.access import SignedInRequest, admin_required
from webapp.accounts.audit import known_values, record_download
from webapp.accounts.models import AuditEntry
from webapp.runs.exports import csv_lines, download

PAGE_SIZE = 50
_COLUMNS = ("at", "person", "action", "kind", "number", "label", "details")
_LARGEST_KEY = 2**63 - 1


class AuditFilter(forms.Form):
    """What of the log is shown. Everything may be left out."""

    person = forms.CharField(required=False, max_length=150, label="Person")
    action = forms.ChoiceField(required=False)
    kind = forms.ChoiceField(required=False, label="Kind of thing")
    number = forms.IntegerField(required=False, min_value=1, max_value=_LARGEST_KEY, widget=forms.HiddenInput)
    since = forms.DateField(required=False, label="From", widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(required=False, label="To", widget=forms.DateInput(attrs={"type": "date"}))
    before = forms.IntegerField(required=False, min_value=1, max_value=_LARGEST_KEY)
    after = forms.IntegerField(required=False, min_value=1, max_value=_LARGEST_KEY)

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        for shown in self.fields.values():
            shown.conditional = True  # type: ignore[attr-defined]  # "optional" beside each would say nothing
        name: Literal["action", "kind"]
        for name in ("action", "kind"):
            field = self.fields[name]
            if isinstance(field, forms.ChoiceField):
                field.choices = [("", "all"), *((value, value) for value in known_values(name))]

    def entries(self) -> QuerySet[AuditEntry]:
        """Return the entries that every readable part of the filter lets through."""
        self.is_valid()
        rows = AuditEntry.objects.all()
        for key, lookup in (("person", "actor_name"), ("action", "action"), ("kind", "kind"), ("number", "number")):
            if value := self.cleaned_data.get(key):
                rows = rows.filter(**{lookup: value})
        since, until = self.cleaned_data.get("since"), self.cleaned_data.get("until")
        rows = rows.filter(at__gte=_start(since)) if since else rows
        return rows.filter(at__lt=_start(until) + timedelta(days=1)) if until else rows

    def page(self) -> tuple[list[AuditEntry], int | None, int | None]:
        """Return a page, the newest entry first, and the keys from which the newer and the older page begin."""
        rows, after, before = self.entries(), self.cleaned_data.get("after"), self.cleaned_data.get("before")
        if after:
            shown = list(rows.filter(pk__gt=after).order_by("pk")[:PAGE_SIZE])[::-1]
        else:
            shown = list((rows.filter(pk__lt=before) if before else rows).order_by("-pk")[:PAGE_SIZE])
        if not shown:
            return [], None, None
        newest, oldest = shown[0].pk, shown[-1].pk
        newer = newest if rows.filter(pk__gt=newest).exists() else None
        return shown, newer, oldest if rows.filter(pk__lt=oldest).exists() else None


def _start(day: date) -> datetime:
    """Return when a day begins. Days are UTC's, as the times of the log are."""
    return datetime.combine(day, time.min, tzinfo=UTC)


@require_safe
@admin_required
def audit_log(request: SignedInRequest) -> HttpResponse:
    """Show who did what to what, and when."""
    form = AuditFilter(request.GET)
    shown, newer, older = form.page()
    context = {"form": form, "entries": shown, "newer": newer, "older": older}
    return render(request, "accounts/audit_log.html", context)


@require_safe
@admin_required
def audit_csv(request: SignedInRequest) -> HttpResponseBase:
    """Download what the filter shows, all pages of it; that is written down too."""
    rows = AuditFilter(request.GET).entries().order_by("-pk")
    record_download(request, "audit log", file="audit.csv", query=request.GET.urlencode())
    return download(csv_lines(_as_rows(rows), _COLUMNS), name="audit.csv", content_type="text/csv")


def _as_rows(entries: QuerySet[AuditEntry]) -> Iterator[dict[str, Any]]:
    for entry in entries.iterator(chunk_size=1000):
        yield {
            "at": entry.at.isoformat(timespec="seconds"), "person": entry.actor_name, "action": entry.action,
            "kind": entry.kind, "number": "" if entry.number is None else entry.number, "label": entry.label,
            "details": json.dumps(entry.details, ensure_ascii=False) if entry.details else "",
        }  # fmt: skip
