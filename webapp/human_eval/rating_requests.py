"""What the views of rating pages have in common: whose request it is, which task it is about, and that task's page."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from webapp.human_eval.assignment import standing
from webapp.human_eval.models import Answer, Campaign, EndedLease, Item, Participation, Rater, Skip, Slot
from webapp.human_eval.rater_access import RaterRequest, campaign_of
from webapp.human_eval.rating_forms import AnswerForm
from webapp.human_eval.rating_pages import TaskPage, seconds_left, shown_item, task_page, total_of
from webapp.human_eval.rating_text import rendered

NOT_YOURS = "this address leads to no task of yours. Open the link you were given, or the list of what you may rate."
_LONGEST_NUMBER = 9  # digits: milliseconds of days


def asked_campaign(request: RaterRequest, pk: int) -> tuple[Campaign, Participation | None]:
    """Return the campaign an address is about, and what ties the rater to it; Http404 when there is none for them."""
    found = campaign_of(request, pk)
    if found is None:
        raise Http404(NOT_YOURS)
    return found


def sent_token(request: HttpRequest) -> UUID:
    """Return the token of the task that a form is about."""
    try:
        return UUID(request.POST.get("token", ""))
    except ValueError:
        raise Http404(NOT_YOURS) from None


def sent_number(request: HttpRequest, name: str) -> int:
    """Return a number that was sent; 0 for what is none."""
    text = request.POST.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else 0


def handed_out(token: UUID, rater: Rater, campaign: Campaign) -> Slot | EndedLease | None:
    """Return the lease of a token with its item, also when it has ended; None when it was never the rater's."""
    held = Slot.objects.filter(token=token, rater=rater, campaign=campaign).select_related("item").first()
    ended = EndedLease.objects.filter(token=token, rater=rater, item__campaign=campaign).select_related("item")
    return held or ended.first()


def page_of(
    lease: Slot | EndedLease,
    campaign: Campaign,
    rater: Rater,
    *,
    said: Any,
    form: AnswerForm | None = None,
    following: int = 0,
    claimed: bool = False,
) -> TaskPage:
    """Return the page of a task in hand, or of the one `following` it; of an ended lease so that nothing is lost.

    `claimed`: just now, so its time has only begun.
    """
    where = standing(campaign, rater)
    shown = shown_item(lease.item_id, rater)
    practice = shown.item.kind == Item.Kind.QUALIFICATION
    number = (_practised(campaign, rater) if practice else where.done) + 1 + following
    url = reverse("rate_campaign", args=[campaign.pk])
    page = task_page(
        shown,
        lease.order,
        campaign=campaign,
        said=said,
        form=form,
        heading=f"{'Practice task' if practice else 'Task'} {number}",
        submit_url=url,
        rater=rater,
    )
    page.token, page.lease = str(lease.token), campaign.lease_seconds if claimed else 0
    if isinstance(lease, Slot) and not claimed:
        page.lease = seconds_left(lease)
    page.about = number - 1 - following + where.left_for_me if practice else max(number, total_of(where))
    page.mode = "practice" if practice else "new"
    page.lede = "You are told afterwards what was expected." if practice else shown.pace
    page.may_edit_last = where.done + following > 0
    page.first = where.done + following == 0
    return page


def _practised(campaign: Campaign, rater: Rater) -> int:
    practice = {"item__campaign": campaign, "item__kind": Item.Kind.QUALIFICATION, "rater": rater}
    return Answer.objects.filter(**practice).count() + Skip.objects.filter(**practice).count()


def task_context(campaign: Campaign, page: TaskPage) -> dict[str, Any]:
    """Return what the template of a task needs."""
    return {
        "campaign": campaign,
        "instructions": rendered(campaign.instructions),
        "task": page,
    }


def task_response(request: HttpRequest, campaign: Campaign, page: TaskPage) -> HttpResponse:
    """Return the page of a task."""
    return render(request, "human_eval/rate_task.html", task_context(campaign, page))


def own_answers(campaign: Campaign, rater: Rater) -> QuerySet[Answer]:
    """Return what this rater has answered here, practice aside."""
    return Answer.objects.filter(campaign=campaign, rater=rater).exclude(item__kind=Item.Kind.QUALIFICATION)
