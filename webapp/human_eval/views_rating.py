"""The rating page and what belongs to it. All of it works without a script; a script only makes it quicker.

A claim is made by GET: it is a lease that runs out by itself, asked again it is the same one, and so a reload, the
back button and a second tab show the task in hand instead of asking whether to send a form again.
"""

from django.contrib import messages
from django.db.models.functions import Now
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from webapp.human_eval.assignment import claim, standing
from webapp.human_eval.models import Answer, Campaign, Item, PanelLink, Participation, Rater
from webapp.human_eval.rater_access import RaterRequest, open_to, rater_required
from webapp.human_eval.rating_forms import said_before
from webapp.human_eval.rating_pages import shown_item, task_page
from webapp.human_eval.rating_requests import asked_campaign, own_answers, page_of, task_response
from webapp.human_eval.rating_text import rendered
from webapp.human_eval.views_rating_answers import answered


@require_safe
@rater_required
def rate(request: RaterRequest) -> HttpResponse:
    """List what this person may rate."""
    rows = [
        {"campaign": campaign, "done": own_answers(campaign, request.rater).count()}
        for campaign in open_to(request.rater)
    ]
    return render(request, "human_eval/rate_list.html", {"rows": rows, "rater": request.rater})


@require_http_methods(["GET", "HEAD", "POST"])
@rater_required
def rate_campaign(request: RaterRequest, pk: int) -> HttpResponseBase:
    """Show the task in hand, or why there is none; take an answer."""
    campaign, participation = asked_campaign(request, pk)
    if request.method == "POST":
        return answered(request, campaign)
    if participation is None or _asks_consent(campaign, participation):
        return _start_page(request, campaign)
    slot = claim(campaign, request.rater)
    if slot is None:
        return _end_page(request, campaign, participation)
    page = page_of(slot, campaign, request.rater, said=slot.draft or {}, claimed=True)
    return task_response(request, campaign, page)


@require_POST
@rater_required
def rate_join(request: RaterRequest, pk: int) -> HttpResponseBase:
    """Take part, and agree to what was shown."""
    campaign, _ = asked_campaign(request, pk)
    if campaign.consent and request.POST.get("consent_version") != str(campaign.consent_version):
        messages.warning(request, "The text has changed meanwhile. Please read it again.")
        return redirect("rate_campaign", pk)
    agreed = {"consent_version": campaign.consent_version, "consented": Now()} if campaign.consent else {}
    Participation.objects.update_or_create(campaign=campaign, rater=request.rater, defaults=agreed)
    return redirect("rate_campaign", pk)


@require_safe
@rater_required
def rate_feedback(request: RaterRequest, pk: int) -> HttpResponseBase:
    """Show what was expected of the practice task that was answered last."""
    campaign, participation = asked_campaign(request, pk)
    mine = Answer.objects.filter(campaign=campaign, rater=request.rater, item__kind=Item.Kind.QUALIFICATION)
    last = mine.order_by("-submitted", "-pk").select_related("item").first()
    if last is None or participation is None:
        return redirect("rate_campaign", pk)
    item, order = last.item, last.order
    expected = None if item.expected_same else order.index(str(item.expected_choice)) + 1
    chosen = None if last.same else order.index(str(last.choice)) + 1
    shown = shown_item(item.pk, request.rater)
    page = task_page(
        shown, order, campaign=campaign, said=said_before(last), heading="", submit_url="", rater=request.rater
    )
    context = {
        "campaign": campaign,
        "task": page,
        "expected": expected,
        "chosen": chosen,
        "right": expected == chosen,
        "feedback": rendered(item.feedback),
        "failed": participation.qualification == Participation.Qualification.FAILED,
    }
    return render(request, "human_eval/rate_feedback.html", context)


@require_safe
@rater_required
def rate_waiting(request: RaterRequest, pk: int) -> HttpResponse:
    """Tell somebody who waits for others how things stand; send them on as soon as that has changed."""
    campaign, participation = asked_campaign(request, pk)
    where = standing(campaign, request.rater) if participation else None
    if where is None or where.end != "others_working":
        return HttpResponseClientRedirect(reverse("rate_campaign", args=[pk]))
    return render(request, "human_eval/_rate_waiting.html", {"standing": where})


# Parts ----------------------------------------------------------------------------------------------------------------


def _asks_consent(campaign: Campaign, participation: Participation) -> bool:
    asks = bool(campaign.consent) and participation.consent_version != campaign.consent_version
    return asks and campaign.status == Campaign.Status.OPEN


def _start_page(request: RaterRequest, campaign: Campaign) -> HttpResponse:
    context = {
        "campaign": campaign,
        "instructions": rendered(campaign.instructions),
        "consent": rendered(campaign.consent),
        "practice": campaign.items.filter(kind=Item.Kind.QUALIFICATION).count(),
    }
    return render(request, "human_eval/rate_start.html", context)


def _end_page(request: RaterRequest, campaign: Campaign, participation: Participation) -> HttpResponse:
    """Say which end this is; a participant of a panel gets what the panel wants to see."""
    where = standing(campaign, request.rater)
    end = where.end or "others_working"  # something came free between the two questions: look again
    closed = end == "not_open" and campaign.status == Campaign.Status.CLOSED
    complete = end in {"all_done", "maximum", "others_working"} or (closed and where.done > 0)
    if end in {"all_done", "maximum"}:
        Participation.objects.filter(pk=participation.pk, finished=None).update(finished=Now())
    panel = PanelLink.objects.filter(campaign=campaign).first() if request.rater.origin == Rater.Origin.PANEL else None
    context = {
        "campaign": campaign,
        "standing": where,
        "end": end,
        "closed": closed,
        "complete": complete,
        "panel": panel,
        "rater": request.rater,
        "may_edit_last": where.done > 0 and not closed and end != "excluded",
    }
    return render(request, "human_eval/rate_end.html", context)
