"""The tasks of a campaign whose answer is known."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.human_eval import services
from webapp.human_eval.changes import why_fixed
from webapp.human_eval.forms_campaign_parts import KnownTaskForm
from webapp.human_eval.known_tasks import KnownTask, suggestion
from webapp.human_eval.models import Campaign, Item
from webapp.human_eval.views_campaigns import changeable, frame
from webapp.runs.models import Dataset

_LONGEST_NUMBER = 19  # digits in an address


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
        "next": int(number) + 1 if number.isdecimal() and len(number) < _LONGEST_NUMBER else 1,
        "fixed": why_fixed(item),
    }
    return render(request, "human_eval/campaign_known.html", frame(request, item, "known") | context)


def _pairs(request: SignedInRequest, item: Campaign) -> Any:
    rows = Dataset.objects.visible_to(request.user).filter(kind=Dataset.Kind.PREFERENCE, task=item.task)
    return rows.exclude(digest="").order_by("name")


def _suggested(request: SignedInRequest, item: Campaign) -> dict[str, Any]:
    """Return a task made of a preference pair that the address asks for, to be looked at and saved."""
    chosen, number = request.GET.get("dataset", ""), request.GET.get("number", "0")
    if (
        not chosen.isdecimal()
        or not number.isdecimal()
        or len(chosen) > _LONGEST_NUMBER
        or len(number) > _LONGEST_NUMBER
    ):
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
