"""What a rater does beside answering: prefetch, heartbeat, skip, flag."""

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from rso_core.errors import UserError
from webapp.human_eval.assignment import claim_ahead, flag, heartbeat, skip
from webapp.human_eval.leases import LOST
from webapp.human_eval.models import Flag, Slot
from webapp.human_eval.rater_access import RaterRequest, rater_required
from webapp.human_eval.rating_forms import sent_draft
from webapp.human_eval.rating_pages import seconds_left
from webapp.human_eval.rating_requests import (
    asked_campaign,
    handed_out,
    page_of,
    sent_number,
    sent_token,
    task_context,
)

_LONGEST_NOTE = 1000
_NO_CONTENT = 204
_UNPROCESSABLE = 422


@require_POST
@rater_required
def rate_ahead(request: RaterRequest, pk: int) -> HttpResponse:
    """Return the task after the one in hand, under a lease of its own; nothing when there is none."""
    campaign, _ = asked_campaign(request, pk)
    held = Slot.objects.filter(token=sent_token(request), rater=request.rater, campaign=campaign).first()
    ahead = claim_ahead(campaign, request.rater, after=held) if held is not None else None
    if ahead is None or ahead.pk == (held and held.pk):
        return HttpResponse(status=_NO_CONTENT)
    page = page_of(ahead, campaign, request.rater, said=ahead.draft or {}, following=1, claimed=True)
    return render(request, "human_eval/_rate_task.html", task_context(campaign, page))


@require_POST
@rater_required
def rate_heartbeat(request: RaterRequest, pk: int) -> HttpResponse:
    """Note active time and a draft; return whether the task is still held, and for how many seconds."""
    campaign, _ = asked_campaign(request, pk)
    token = sent_token(request)
    try:
        draft = sent_draft(campaign, request.POST) if "drafted" in request.POST else None
        held = heartbeat(token, rater=request.rater, active_ms=sent_number(request, "active_ms"), draft=draft)
    except UserError as error:
        return JsonResponse({"held": True, "say": str(error)}, status=_UNPROCESSABLE)
    slot = Slot.objects.filter(token=token, rater=request.rater).only("pk").first() if held else None
    return JsonResponse({"held": held, "seconds": seconds_left(slot) if slot else 0})


@require_POST
@rater_required
def rate_skip(request: RaterRequest, pk: int) -> HttpResponseBase:
    """Give the task back."""
    asked_campaign(request, pk)
    try:
        skip(sent_token(request), rater=request.rater, reason=request.POST.get("skip_reason", ""))
        messages.success(request, "Skipped. Somebody else gets that task.")
    except UserError as error:
        messages.error(request, str(error).capitalize())
    return redirect("rate_campaign", pk)


@require_POST
@rater_required
def rate_flag(request: RaterRequest, pk: int) -> HttpResponseBase:
    """Ask somebody to look at the task; what was filled in so far stays."""
    campaign, _ = asked_campaign(request, pk)
    token = sent_token(request)
    lease = handed_out(token, request.rater, campaign)
    if lease is None:
        messages.warning(request, LOST.capitalize())
        return redirect("rate_campaign", pk)
    heartbeat(
        token,
        rater=request.rater,
        active_ms=sent_number(request, "active_ms"),
        draft=sent_draft(campaign, request.POST),
    )
    reason, place = request.POST.get("flag_reason", ""), request.POST.get("flag_response", "")
    note = request.POST.get("flag_note", "")[:_LONGEST_NOTE]
    places = {str(number + 1): int(index) for number, index in enumerate(lease.order)}
    if reason not in Flag.Reason.values:
        messages.error(request, "Nothing was flagged: choose what is wrong, then send the flag.")
    else:
        flag(lease.item, rater=request.rater, reason=reason, response=places.get(place), note=note)
        messages.success(request, "Flagged, thank you. You can still rate this task.")
    return redirect("rate_campaign", pk)
