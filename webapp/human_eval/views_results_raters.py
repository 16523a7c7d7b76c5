"""The raters of a campaign: table, one rater, excluding and lifting."""

from collections.abc import Mapping

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.human_eval import exclusions
from webapp.human_eval.models import Answer, Campaign, Exclusion, Item, Rater
from webapp.human_eval.results import Options, campaign_figures
from webapp.human_eval.results_items import SAME_WORD
from webapp.human_eval.results_raters import (
    history,
    if_excluded,
    if_lifted,
    mean_seconds,
    rater_answers,
    rater_rows,
)
from webapp.human_eval.views_campaigns import changeable, find_campaign
from webapp.human_eval.views_results import frame

_PAGE_SIZE = 25
_WRONG = 400


@require_safe
@researcher_required
def raters(request: SignedInRequest, pk: int) -> HttpResponse:
    """List the raters with what they did and what looks odd."""
    campaign = find_campaign(request, pk)
    figures = campaign_figures(campaign, Options())
    rows = rater_rows(campaign, figures.values, request.GET.get("sort", ""))
    page = Paginator(rows, _PAGE_SIZE).get_page(request.GET.get("page"))
    return render(request, "human_eval/results_raters.html", {**frame(request, campaign, "raters"), "page": page})


@require_safe
@researcher_required
def rater(request: SignedInRequest, pk: int, pseudonym: str) -> HttpResponse:
    """Show a rater, and what excluding them or lifting that would do."""
    return _rater_page(request, find_campaign(request, pk), pseudonym)


def _find_rater(campaign: Campaign, pseudonym: str) -> Rater:
    mine = Rater.objects.filter(participations__campaign=campaign) | Rater.objects.filter(answers__campaign=campaign)
    return get_object_or_404(mine.distinct(), pseudonym=pseudonym.replace("\x00", ""))


def _rater_page(
    request: SignedInRequest, campaign: Campaign, pseudonym: str, *, error: str = "", reason: str = ""
) -> HttpResponse:
    found = _find_rater(campaign, pseudonym)
    row = next(row for row in rater_rows(campaign, campaign_figures(campaign, Options()).values) if row.rater == found)
    labels = dict(campaign.systems.values_list("index", "label"))
    page = Paginator(rater_answers(campaign, found), _PAGE_SIZE).get_page(request.GET.get("page"))
    answers = [(answer, _choice_of(answer, labels), _qualities(answer)) for answer in page]
    context = {
        **frame(request, campaign, "raters"), "row": row, "page": page, "answers": answers, "error": error,
        "reason": reason, "history": history(campaign, found), "seconds": mean_seconds(campaign, found),
        "would": if_lifted(campaign, found) if row.exclusion else if_excluded(campaign, found),
    }  # fmt: skip
    return render(request, "human_eval/results_rater.html", context, status=_WRONG if error else 200)


def _choice_of(answer: Answer, labels: Mapping[int, str]) -> str:
    """Return what an answer chose: a system, in known items the number of a response."""
    if answer.choice is None:
        return SAME_WORD
    return labels.get(answer.choice, "") if answer.item.kind == Item.Kind.MAIN else f"response {answer.choice + 1}"


def _qualities(answer: Answer) -> list[int]:
    return [getattr(answer, f"quality_{index}") for index in range(len(answer.order))]


@require_POST
@researcher_required
def exclude_rater(request: SignedInRequest, pk: int, pseudonym: str) -> HttpResponse:
    """Stop counting a rater's answers, with the reason that is written down."""
    campaign = changeable(request, pk)
    found, reason = _find_rater(campaign, pseudonym), request.POST.get("reason", "").strip()
    try:
        exclusions.exclude(campaign, found, by=request.user, reason=reason)
    except UserError as error:
        return _rater_page(request, campaign, pseudonym, error=str(error), reason=reason)
    messages.success(request, f"{found.pseudonym} is excluded; the results are computed without their answers.")
    return redirect("campaign_rater", campaign.pk, found.pseudonym)


@require_POST
@researcher_required
def lift_exclusion(request: SignedInRequest, pk: int, pseudonym: str) -> HttpResponse:
    """Count a rater's answers again."""
    campaign = changeable(request, pk)
    found = _find_rater(campaign, pseudonym)
    exclusion = Exclusion.objects.filter(campaign=campaign, rater=found, lifted__isnull=True).first()
    if exclusion is not None:
        try:
            exclusions.lift(exclusion, by=request.user)
        except UserError as error:
            return _rater_page(request, campaign, pseudonym, error=str(error))
    messages.success(request, f"{found.pseudonym} counts again.")
    return redirect("campaign_rater", campaign.pk, found.pseudonym)
