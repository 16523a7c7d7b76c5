"""What a draft compares: its systems and prompts, and their responses with the doubts about them."""

from collections.abc import Sequence

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.human_eval import services
from webapp.human_eval.campaign_page import DOUBTS, doubtful_items, doubts_of
from webapp.human_eval.forms_campaign_parts import ResponsesForm
from webapp.human_eval.forms_contents import DraftContentsForm
from webapp.human_eval.models import Campaign, Item, System
from webapp.human_eval.views_campaigns import changeable, find_campaign, frame, power_of, tell_left_out
from webapp.runs.views_runs import artifacts_needed

_SHOWN = 20  # missing prompts named in a message
_PAGE_SIZE = 10


@require_http_methods(["GET", "HEAD", "POST"])
@researcher_required
@artifacts_needed
def campaign_contents(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Change the systems and prompts of a draft."""
    item = changeable(request, pk)
    if item.status != Campaign.Status.DRAFT:
        messages.error(
            request, f"{item.name} has been opened: its systems and prompts stay. Clone it to compare others."
        )
        return redirect(item)
    form = DraftContentsForm(request.POST if request.method == "POST" else None, user=request.user, campaign=item)
    if request.method == "POST" and form.is_valid():
        try:
            created = services.change_contents(item, form.contents, form.systems, by=request.user)
        except UserError as error:
            form.add_error(None, str(error))
        else:
            tell_left_out(request, created)
            messages.success(request, f"{item.name} was changed: {item.way} systems, {item.num_items:,} prompts.")
            return redirect(item)
    values = {name: form[name].value() for name in ("num_items", "system_3")}
    power = power_of({**values, "replicas": item.replicas, "gap": request.POST.get("gap")})
    context = frame(request, item, "contents") | {"form": form, "power": power}
    return render(request, "human_eval/campaign_contents.html", context)


@require_safe
@researcher_required
def campaign_responses(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show the tasks whose responses are in doubt: they name a system, are empty, identical, or missing."""
    item = find_campaign(request, pk)
    show = request.GET.get("show", "named")
    show = show if show in DOUBTS else "named"
    found = doubtful_items(item, show).prefetch_related("responses__system")
    context = {
        "page": Paginator(found, _PAGE_SIZE).get_page(request.GET.get("page")),
        "show": show,
        "doubts": [(key, words, key == show) for key, words in DOUBTS.items()],
        "what": DOUBTS[show],
        "counts": doubts_of(item),
    }
    return render(request, "human_eval/campaign_responses.html", frame(request, item, "responses") | context)


@require_POST
@researcher_required
def leave_out(request: SignedInRequest, pk: int) -> HttpResponse:
    """Take tasks out of a draft: one, or all with a doubt."""
    item = changeable(request, pk)
    show = request.POST.get("show", "")
    one = request.POST.get("item", "")
    if show in DOUBTS:
        items = doubtful_items(item, show)
        if one.isdecimal():
            items = items.filter(index=int(one[:9]))
        try:
            count = services.leave_out(
                item, list(items.values_list("pk", flat=True)), by=request.user, reason=DOUBTS[show]
            )
        except UserError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, f"{count:,} tasks were left out; {item.num_items:,} remain.")
    return redirect(f"{reverse('campaign_responses', args=[pk])}?show={show}" if show in DOUBTS else item)


def _system(campaign: Campaign, index: int) -> System:
    return get_object_or_404(campaign.systems.select_related("campaign", "stage", "run"), index=index)


@require_http_methods(["GET", "HEAD", "POST"])
@researcher_required
def campaign_upload(request: SignedInRequest, pk: int, index: int) -> HttpResponse:
    """Take a file with the responses of a system."""
    item = changeable(request, pk)
    system = get_object_or_404(item.systems.filter(kind=System.Kind.FILE), index=index)
    form = ResponsesForm(request)
    if request.method == "POST" and form.is_valid() and form.kept_file is not None:
        try:
            taken = services.attach_file(
                system, digest=form.kept_file.digest, name=form.kept_file.name, by=request.user
            )
        except UserError as error:
            form.add_error("file", str(error))
        else:
            _tell_taken(request, taken.stored, taken.missing, taken.not_needed)
            return redirect(item)
    context = {"form": form, "system": system, "prompts": item.items.filter(kind=Item.Kind.MAIN).count()}
    return render(request, "human_eval/campaign_upload.html", frame(request, item, "campaign") | context)


def _tell_taken(request: HttpRequest, stored: int, missing: Sequence[str], not_needed: int) -> None:
    extra = f" {not_needed:,} of the file answer prompts that are not in this campaign." if not_needed else ""
    messages.success(request, f"{stored:,} responses were stored.{extra}")
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
        text = f"{len(missing):,} prompts have no response in the file: {shown}. Upload a file with all of them, or leave those tasks out."
        messages.warning(request, text)


@require_POST
@researcher_required
@artifacts_needed
def campaign_retry(request: SignedInRequest, pk: int, index: int) -> HttpResponseBase:
    """Sample a system's missing responses again."""
    item = changeable(request, pk)
    try:
        services.retry_responses(_system(item, index), by=request.user)
    except UserError as error:
        messages.error(request, str(error))
    return redirect(item)


@require_POST
@researcher_required
def campaign_stop(request: SignedInRequest, pk: int, index: int) -> HttpResponse:
    """Stop the sampling of a system's missing responses."""
    item = changeable(request, pk)
    system = _system(item, index)
    if services.stop_responses(system, by=request.user):
        messages.success(
            request, f"The sampling for {system.label} was stopped. What is there stays; sample the rest when you like."
        )
    else:
        messages.info(request, f"Nothing was being sampled for {system.label} any more.")
    return redirect(item)
