"""Home: what is running, what needs me, what came out."""

from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import conditional_page, require_safe

from webapp.accounts.access import SignedInRequest, researcher_required, signed_in_required
from webapp.runs.overview import overview


@require_safe
@signed_in_required
def home(request: SignedInRequest) -> HttpResponseBase:
    """Show Home to researchers; raters go to their own page."""
    if not request.user.may_research:
        return redirect("rate")
    return render(request, "runs/home.html", {"overview": overview(request.user)})


@require_safe
@conditional_page
@researcher_required
def home_live(request: SignedInRequest) -> HttpResponse:
    """Return the polled part of Home."""
    return render(request, "runs/_home_live.html", {"overview": overview(request.user)})
