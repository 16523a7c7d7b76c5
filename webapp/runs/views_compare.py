"""Compare any runs: their curves, recipes, results and responses."""

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.runs.compare import MOST_RUNS, compared, differences, overlaid_curves, responses
from webapp.runs.models import Run
from webapp.runs.views_runs import artifacts_needed


@require_safe
@researcher_required
@artifacts_needed
def compare_runs(request: SignedInRequest) -> HttpResponse:
    """Show the runs that ?run=… names beside each other, in the order of the address."""
    wanted = [int(pk[:18]) for pk in request.GET.getlist("run") if pk.isascii() and pk.isdecimal()]
    visible = Run.objects.visible_to(request.user).filter(pk__in=wanted).in_bulk()
    runs = [visible[pk] for pk in dict.fromkeys(wanted) if pk in visible]
    shown = runs[:MOST_RUNS]
    items = compared(shown)
    page = request.GET.get("page", "1")
    number = int(page[:9]) if page.isascii() and page.isdecimal() else 1
    sides, pages = responses(items, number)
    context = {
        "items": items,
        "differences": differences(shown),
        "curves": overlaid_curves(shown),
        "sides": sides,
        "number": min(max(number, 1), pages),
        "pages": pages,
        "left_out": len(runs) - len(shown),
        "choices": [] if shown else Run.objects.visible_to(request.user).order_by("-created")[:30],
    }
    return render(request, "runs/compare.html", context)
