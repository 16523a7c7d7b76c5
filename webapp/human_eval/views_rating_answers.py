"""Answers: taken once, asked about when something is missing or contradicts itself, changed while they are the last."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from rso_core.errors import UserError
from webapp.human_eval.assignment import Outcome, change, heartbeat, submit
from webapp.human_eval.leases import LOST
from webapp.human_eval.models import Answer, Campaign, EndedLease, Item, Rater, Slot
from webapp.human_eval.rater_access import RaterRequest, rater_required
from webapp.human_eval.rating_forms import AnswerForm, said_before, sent_draft
from webapp.human_eval.rating_pages import TaskPage, shown_item, task_page
from webapp.human_eval.rating_requests import (
    asked_campaign,
    handed_out,
    own_answers,
    page_of,
    sent_token,
    task_response,
)

_UNPROCESSABLE = 422


def _wants_json(request: HttpRequest) -> bool:
    return request.headers.get("Accept") == "application/json"


@require_http_methods(["GET", "HEAD", "POST"])
@rater_required
def rate_last(request: RaterRequest, pk: int) -> HttpResponseBase:
    """Show this rater's own last answer, and change it."""
    campaign, _ = asked_campaign(request, pk)
    last = own_answers(campaign, request.rater).order_by("-submitted", "-pk").select_related("item").first()
    if last is None:
        messages.warning(request, "You have not answered anything here yet.")
        return redirect("rate_campaign", pk)
    if request.method != "POST":
        return task_response(request, campaign, _edit_page(last, campaign, request.rater, said_before(last)))
    if request.POST.get("token") != str(last.client_id):
        messages.warning(request, "You have answered another task meanwhile. This is that answer.")
        return redirect("rate_last", pk)
    return _changed(request, campaign, last)


def answered(request: RaterRequest, campaign: Campaign) -> HttpResponseBase:
    """Store what was sent; ask again for what is missing, and once about a contradiction."""
    form, token = AnswerForm(campaign, request.POST), sent_token(request)
    valid = form.is_valid()
    if not valid or form.asks:
        lease = handed_out(token, request.rater, campaign)
        return (
            _refused(request, campaign, LOST) if lease is None else _again(request, campaign, lease, form, asks=valid)
        )
    sent = form.cleaned_data
    try:
        answer, outcome = submit(
            token,
            form.verdict,
            rater=request.rater,
            client_id=sent["client_id"],
            active_ms=max(0, sent["active_ms"] or 0),
            campaign=campaign,
        )
    except UserError as error:
        return _refused(request, campaign, str(error))
    return _saved(request, campaign, said_of(answer, outcome), practice=answer.item.kind == Item.Kind.QUALIFICATION)


def said_of(answer: Answer, outcome: Outcome) -> str:
    """Return what became of an answer, in a sentence for its rater."""
    if outcome == Outcome.SURPLUS:
        return f"Your answer is kept, but does not count: {answer.surplus_reason}."
    return {
        Outcome.STORED: "Saved.",
        Outcome.ALREADY: "This answer was saved before. It counts once.",
        Outcome.CHANGED: "Your answer to this task was changed.",
    }[outcome]


def _saved(request: RaterRequest, campaign: Campaign, sentence: str, *, practice: bool) -> HttpResponseBase:
    url = reverse("rate_feedback" if practice else "rate_campaign", args=[campaign.pk])
    if _wants_json(request):
        return JsonResponse({"ok": True, "say": sentence, "go": url if practice else ""})
    if not practice:
        messages.success(request, sentence)
    return redirect(url)


def _refused(request: RaterRequest, campaign: Campaign, sentence: str) -> HttpResponseBase:
    sentence = sentence[:1].upper() + sentence[1:]
    if _wants_json(request):
        return JsonResponse({"ok": False, "say": sentence}, status=_UNPROCESSABLE)
    messages.error(request, sentence)
    return redirect("rate_campaign", campaign.pk)


def _again(
    request: RaterRequest, campaign: Campaign, lease: Slot | EndedLease, form: AnswerForm, *, asks: bool
) -> HttpResponseBase:
    """Show the task again with what was filled in."""
    if _wants_json(request):
        return JsonResponse({"ok": False, "asks": asks, "say": " ".join(form.problems)}, status=_UNPROCESSABLE)
    draft = sent_draft(campaign, request.POST)
    heartbeat(sent_token(request), rater=request.rater, active_ms=0, draft=draft)
    page = page_of(lease, campaign, request.rater, said=draft, form=form)
    page.asks = asks
    page.client_id = str(form.cleaned_data.get("client_id") or page.client_id)
    return task_response(request, campaign, page)


def _changed(request: RaterRequest, campaign: Campaign, last: Answer) -> HttpResponseBase:
    form = AnswerForm(campaign, request.POST)
    valid = form.is_valid()
    if not valid or form.asks:
        page = _edit_page(last, campaign, request.rater, sent_draft(campaign, request.POST), form)
        page.asks = valid
        return task_response(request, campaign, page)
    try:
        change(last, form.verdict(last.order))
    except UserError as error:
        return _refused(request, campaign, str(error))
    messages.success(request, "Your last answer was changed.")
    return redirect("rate_campaign", campaign.pk)


def _edit_page(last: Answer, campaign: Campaign, rater: Rater, said: Any, form: AnswerForm | None = None) -> TaskPage:
    page = task_page(
        shown_item(last.item_id, rater),
        last.order,
        campaign=campaign,
        said=said,
        form=form,
        heading="My last answer",
        submit_url=reverse("rate_last", args=[campaign.pk]),
        rater=rater,
    )
    page.mode, page.token = "edit", str(last.client_id)
    page.lede = "What you said before is kept beside the change."
    return page
