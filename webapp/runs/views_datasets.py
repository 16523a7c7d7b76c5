"""Datasets: list, import, look inside, derive, share."""

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.runs.listing import searched, sorted_by
from webapp.runs.models import Dataset

_SORTS = {"name": "name", "kind": "kind", "rows": "rows_kept", "rejected": "rows_rejected", "created": "created"}


@require_safe
@researcher_required
def datasets(request: SignedInRequest) -> HttpResponse:
    """List the datasets this person may see."""
    rows = Dataset.objects.visible_to(request.user).select_related("owner", "stage", "derived_from")
    found = sorted_by(request, searched(request, rows, ("name", "source", "licence")), _SORTS, default="-created")
    kind = request.GET.get("kind", "")
    found = found.filter(kind=kind) if kind in Dataset.Kind.values else found
    page = Paginator(found, 25).get_page(request.GET.get("page"))
    return render(request, "runs/datasets.html", {"page": page, "kinds": Dataset.Kind.choices, "kind": kind})
