"""The results of a campaign: Table 4 with intervals, live while raters answer."""

from typing import Any

from django.http import HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import conditional_page, require_safe

from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.human_eval.models import Campaign, Rater
from webapp.human_eval.results import Options, campaign_figures
from webapp.human_eval.results_page import results_page
from webapp.human_eval.results_systems import shown_systems
from webapp.human_eval.results_totals import totals_of
from webapp.human_eval.views_campaigns import find_campaign
from webapp.human_eval.views_campaigns import frame as campaign_frame


def frame(request: SignedInRequest, campaign: Campaign, tab: str) -> dict[str, Any]:
    """Return what the frame of every page of results needs."""
    return {**campaign_frame(request, campaign, tab), "is_live": campaign.status == Campaign.Status.OPEN}


def options_of(request: SignedInRequest) -> Options:
    """Return what the query string asks for."""
    return Options(leave_out_identical=request.GET.get("identical") == "out")


@require_safe
@researcher_required
def results(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show what people say of the systems."""
    return render(request, "human_eval/results.html", _context(request, pk))


@require_safe
@conditional_page
@researcher_required
def results_live(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled part of the results."""
    context = _context(request, pk, polled=True)
    context["reload"] = (request.GET.get("was") == "live") != context["is_live"]
    return render(request, "human_eval/_results_live.html", context)


def _context(request: SignedInRequest, pk: int, *, polled: bool = False) -> dict[str, Any]:
    campaign, options = find_campaign(request, pk), options_of(request)
    figures = campaign_figures(campaign, options, may_be_older=polled)
    page = results_page(campaign, shown_systems(campaign, request.user), figures, totals_of(campaign))
    return {**frame(request, campaign, "results"), "page": page, "options": options}


@require_safe
@conditional_page
@researcher_required
def results_json(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Return the figures for programs."""
    campaign, options = find_campaign(request, pk), options_of(request)
    figures = campaign_figures(campaign, options)
    values = dict(figures.values)
    if "raters" in values:
        names = dict(Rater.objects.filter(answers__campaign=campaign).values_list("pk", "pseudonym"))
        values["raters"] = [{**row, "rater": names[row["rater"]]} for row in values["raters"]]
    systems = list(campaign.systems.order_by("index").values_list("label", flat=True))
    return JsonResponse({
        "id": campaign.pk, "name": campaign.name, "status": campaign.status, "systems": systems,
        "leave_out_identical": options.leave_out_identical, "reason": figures.reason, **values,
    })  # fmt: skip
