"""The results of a campaign: Table 4 with intervals, live while raters answer."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import conditional_page, require_safe

from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.human_eval.models import Campaign
from webapp.human_eval.results import Options, campaign_figures
from webapp.human_eval.results_page import results_page
from webapp.human_eval.results_systems import shown_systems
from webapp.human_eval.results_totals import totals_of
from webapp.runs.sharing import may_change


def find_campaign(request: SignedInRequest, pk: int) -> Campaign:
    """Return a campaign that this person may see, or answer 404."""
    campaigns = Campaign.objects.visible_to(request.user).filter(kind=Campaign.Kind.CAMPAIGN)
    return get_object_or_404(campaigns.select_related("owner", "dataset"), pk=pk)


def changeable_campaign(request: SignedInRequest, pk: int) -> Campaign:
    """Return a campaign that this person may change; refuse where they only may see it."""
    campaign = find_campaign(request, pk)
    if not may_change(request.user, campaign):
        message = (
            f"only {campaign.owner.username} or an admin may exclude raters of {campaign.name} or settle its flags."
        )
        raise PermissionDenied(message)
    return campaign


def frame(request: SignedInRequest, campaign: Campaign, tab: str) -> dict[str, Any]:
    """Return what the frame of every page of results needs."""
    return {
        "campaign": campaign, "tab": tab, "may_change": may_change(request.user, campaign),
        "is_live": campaign.status == Campaign.Status.OPEN,
    }  # fmt: skip


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
    systems = dict(campaign.systems.order_by("index").values_list("index", "label"))
    return JsonResponse({
        "id": campaign.pk, "name": campaign.name, "status": campaign.status, "systems": list(systems.values()),
        "leave_out_identical": options.leave_out_identical, "reason": figures.reason, **figures.values,
    })  # fmt: skip
