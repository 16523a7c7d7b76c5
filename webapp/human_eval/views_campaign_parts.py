"""The parts of a campaign: responses and their doubts, who is let in, tasks whose answer is known."""

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.accounts.audit import record
from webapp.accounts.models import Role, User
from webapp.human_eval import services
from webapp.human_eval.campaign_page import DOUBTS, doubtful_items, doubts_of
from webapp.human_eval.changes import why_fixed
from webapp.human_eval.forms_campaign_parts import InviteForm, KnownTaskForm, PanelForm, ResponsesForm
from webapp.human_eval.known_tasks import KnownTask, suggestion
from webapp.human_eval.models import Campaign, Invitation, Item, PanelLink, System
from webapp.human_eval.responses import retry_responses
from webapp.human_eval.views_campaigns import changeable, find_campaign, frame
from webapp.runs.models import Dataset

_SHOWN = 20  # missing prompts named in a message
_PAGE_SIZE = 10


# Responses ------------------------------------------------------------------------------------------------------------


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


def _tell_taken(request: HttpRequest, stored: int, missing: Any, not_needed: int) -> None:
    extra = f" {not_needed:,} of the file answer prompts that are not in this campaign." if not_needed else ""
    messages.success(request, f"{stored:,} responses were stored.{extra}")
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
        text = f"{len(missing):,} prompts have no response in the file: {shown}. Upload a file with all of them, or leave those tasks out."
        messages.warning(request, text)


@require_POST
@researcher_required
def campaign_retry(request: SignedInRequest, pk: int, index: int) -> HttpResponse:
    """Try the sampling of a system's responses again."""
    item = changeable(request, pk)
    system = _system(item, index)
    with transaction.atomic():
        retry_responses(system)
        record(request.user, "retried the sampling of", item, system=system.label)
    return redirect(item)


# Access ---------------------------------------------------------------------------------------------------------------


@never_cache
@require_safe
@researcher_required
def campaign_access(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show who may rate and how they get in."""
    return _access(request, changeable(request, pk))


def _access(request: SignedInRequest, item: Campaign, **changed: Any) -> HttpResponse:
    panel = PanelLink.objects.filter(campaign=item).first()
    invitations = Invitation.objects.filter(campaign=item).select_related("rater", "created_by")
    fields = PanelForm.base_fields
    context = {
        "page": Paginator(invitations, 50).get_page(request.GET.get("page")),
        "accounts": User.objects.filter(role=Role.RATER, is_active=True).count(),
        "panel": panel,
        "invite_form": InviteForm(),
        "panel_form": PanelForm(initial={name: getattr(panel, name) for name in fields} if panel else None),
    }
    return render(request, "human_eval/campaign_access.html", frame(request, item, "access") | context | changed)


@never_cache
@require_POST
@researcher_required
def invite(request: SignedInRequest, pk: int) -> HttpResponse:
    """Make invitations and show their links, this once."""
    item = changeable(request, pk)
    form = InviteForm(request.POST)
    if not form.is_valid():
        return _access(request, item, invite_form=form)
    tokens = services.invite_many(item, by=request.user, notes=form.invited, days=form.cleaned_data["days"])
    links = [
        (note, request.build_absolute_uri(reverse("rate_invitation", args=[token])))
        for note, token in zip(form.invited, tokens, strict=True)
    ]
    return _access(request, item, links=links)


@require_POST
@researcher_required
def revoke_invitation(request: SignedInRequest, pk: int, invitation: int) -> HttpResponse:
    """Make an invitation useless."""
    item = changeable(request, pk)
    services.revoke(get_object_or_404(Invitation, campaign=item, pk=invitation), by=request.user)
    messages.success(request, "The invitation was revoked: its link no longer works.")
    return redirect("campaign_access", pk)


@never_cache
@require_POST
@researcher_required
def save_panel(request: SignedInRequest, pk: int) -> HttpResponse:
    """Save the settings of the panel link; the first time its address is shown, this once."""
    item = changeable(request, pk)
    form = PanelForm(request.POST)
    if not form.is_valid():
        return _access(request, item, panel_form=form)
    is_new = not PanelLink.objects.filter(campaign=item).exists()
    services.set_panel_link(item, form.cleaned_data, by=request.user)
    if is_new:
        return _with_panel_address(request, item)
    messages.success(request, "The panel link was changed.")
    return redirect("campaign_access", pk)


@never_cache
@require_POST
@researcher_required
def renew_panel(request: SignedInRequest, pk: int) -> HttpResponse:
    """Give the panel link a new address and show it, this once."""
    item = changeable(request, pk)
    try:
        return _with_panel_address(request, item)
    except UserError as error:
        messages.error(request, str(error))
        return redirect("campaign_access", pk)


def _with_panel_address(request: SignedInRequest, item: Campaign) -> HttpResponse:
    token = services.renew_panel_link(item, by=request.user)
    panel = PanelLink.objects.get(campaign=item)
    address = request.build_absolute_uri(reverse("rate_panel", args=[token]))
    # Panels write the participant's id in the place of such words in double braces.
    query = f"{panel.id_parameter}={{{{%{panel.id_parameter}%}}}}"
    if panel.session_parameter:
        query += f"&{panel.session_parameter}={{{{%{panel.session_parameter}%}}}}"
    return _access(request, item, panel_address=f"{address}?{query}")


# Known tasks ----------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@researcher_required
def campaign_known(request: SignedInRequest, pk: int) -> HttpResponse:
    """List the tasks whose answer is known, and add one."""
    item = changeable(request, pk)
    if request.method == "POST":
        form = KnownTaskForm(request.POST, way=item.way)
        if form.is_valid() and _added(request, item, form):
            return redirect("campaign_known", pk)
        return _known(request, item, form)
    return _known(request, item, KnownTaskForm(way=item.way, initial=_suggested(request, item)))


def _added(request: SignedInRequest, item: Campaign, form: KnownTaskForm) -> bool:
    values = form.cleaned_data
    task = KnownTask(values["kind"], values["prompt"], form.responses, form.expected, values["feedback"])
    try:
        services.add_known_item(item, task, by=request.user)
    except UserError as error:
        form.add_error(None, str(error))
        return False
    messages.success(request, f"The {values['kind']} task was added.")
    return True


def _known(request: SignedInRequest, item: Campaign, form: KnownTaskForm) -> HttpResponse:
    number = request.GET.get("number", "")
    context = {
        "form": form,
        "tasks": item.items.exclude(kind=Item.Kind.MAIN).prefetch_related("responses").order_by("kind", "index"),
        "datasets": _pairs(request, item),
        "chosen": request.GET.get("dataset", ""),
        "next": int(number) + 1 if number.isdecimal() and len(number) < _SHOWN else 1,
        "fixed": why_fixed(item),
    }
    return render(request, "human_eval/campaign_known.html", frame(request, item, "known") | context)


def _pairs(request: SignedInRequest, item: Campaign) -> Any:
    rows = Dataset.objects.visible_to(request.user).filter(kind=Dataset.Kind.PREFERENCE, task=item.task)
    return rows.exclude(digest="").order_by("name")


def _suggested(request: SignedInRequest, item: Campaign) -> dict[str, Any]:
    """Return a task made of a preference pair that the address asks for, to be looked at and saved."""
    chosen, number = request.GET.get("dataset", ""), request.GET.get("number", "0")
    if not chosen.isdecimal() or not number.isdecimal() or len(chosen) > _SHOWN or len(number) > _SHOWN:
        return {"kind": "check"}
    dataset = _pairs(request, item).filter(pk=int(chosen)).first()
    if dataset is None:
        return {"kind": "check"}
    try:
        task = suggestion(item, dataset, int(number))
    except (UserError, FileNotFoundError) as error:
        messages.error(request, str(error))
        return {"kind": "check"}
    responses = {f"response_{place}": text for place, text in enumerate(task.responses, start=1)}
    return {"kind": "check", "prompt": task.prompt, "best": "1", **responses}


@require_POST
@researcher_required
def remove_known(request: SignedInRequest, pk: int, index: int) -> HttpResponse:
    """Remove a known task that nobody has had."""
    item = changeable(request, pk)
    try:
        services.remove_known_item(get_object_or_404(item.items, index=index), by=request.user)
    except UserError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "The task was removed.")
    return redirect("campaign_known", pk)
