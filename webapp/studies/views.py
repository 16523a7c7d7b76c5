"""Studies: list, start, watch, pause, resume, extend, share, remove."""

import uuid

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import conditional_page, require_http_methods, require_POST, require_safe

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.runs.listing import searched, sorted_by
from webapp.runs.models import Status
from webapp.runs.sharing import may_change
from webapp.runs.views_runs import artifacts_needed
from webapp.studies import services
from webapp.studies.charts import study_chart
from webapp.studies.forms import ExtendForm, NewStudyForm
from webapp.studies.models import Study
from webapp.studies.study_page import state_of, study_page

_PAGE_SIZE = 25
_SORTS = {"name": "name", "created": "created", "owner": "owner__username"}
_STATES = {status: Count("cells", filter=Q(cells__run__status=status)) for status in Status.values}


def find_study(request: SignedInRequest, pk: int) -> Study:
    """Return a study that this person may see, or answer 404."""
    return get_object_or_404(Study.objects.visible_to(request.user).select_related("owner"), pk=pk)


def _changeable(request: SignedInRequest, pk: int) -> Study:
    study = find_study(request, pk)
    if not may_change(request.user, study):
        message = f"only {study.owner.username} or an admin may change {study.name}. Its bundle starts one of your own."
        raise PermissionDenied(message)
    return study


@require_safe
@researcher_required
def studies(request: SignedInRequest) -> HttpResponse:
    """List the studies this person may see."""
    counts = {f"count_{status}": count for status, count in _STATES.items()}
    found = Study.objects.visible_to(request.user).select_related("owner").annotate(cells_all=Count("cells"), **counts)
    listed = sorted_by(
        request, searched(request, found, ("name", "preset", "owner__username")), _SORTS, default="-created"
    )
    page = Paginator(listed, _PAGE_SIZE).get_page(request.GET.get("page"))
    return render(request, "studies/studies.html", {"page": page, "rows": [_listed(study) for study in page]})


def _listed(study: Study) -> tuple[Study, str, int]:
    """Return a study with its state and how many of its cells are done."""
    counts = {status: getattr(study, f"count_{status}") for status in Status.values}
    counts[Status.WAITING] += study.cells_all - sum(counts.values())  # type: ignore[attr-defined]
    return study, state_of(study, counts), counts[Status.DONE]


@require_http_methods(["GET", "HEAD", "POST"])
@researcher_required
def new_study(request: SignedInRequest) -> HttpResponseBase:
    """Choose what to run; look at its cells; start it."""
    token = request.POST.get("launch_token") or str(uuid.uuid4())
    if request.method != "POST":
        form = NewStudyForm(user=request.user, initial={"preset": request.GET.get("preset", "table_1")})
        return render(request, "studies/new_study.html", {"form": form, "launch_token": token})
    form = NewStudyForm(request.POST, user=request.user)
    if form.is_valid() and form.study and request.POST.get("action") == "start":
        try:
            return redirect(services.start_study(plan=form.study, user=request.user, token=_token(token)))
        except UserError as error:
            form.add_error(None, str(error))
    context = {"form": form, "launch_token": token, "preview": None if form.errors else form.study}
    return render(request, "studies/new_study.html", context)


def _token(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


@require_safe
@researcher_required
@artifacts_needed
def study(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show a study: who wins, is it sure, how far is it."""
    item = find_study(request, pk)
    page = study_page(item, request.GET.get("against", ""))
    context = {
        "study": item,
        "page": page,
        "may_change": may_change(request.user, item),
        "extend": ExtendForm(),
        "chart": study_chart(page.bundle),
    }
    return render(request, "studies/study.html", context)


@require_safe
@conditional_page
@researcher_required
@artifacts_needed
def study_live(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled part of a study's page."""
    item = find_study(request, pk)
    page = study_page(item, request.GET.get("against", ""))
    was_live = request.GET.get("was") == "live"
    context = {"study": item, "page": page, "chart": study_chart(page.bundle), "reload": was_live != page.is_live}
    return render(request, "studies/_study_live.html", context)


@require_POST
@researcher_required
def pause_study(request: SignedInRequest, pk: int) -> HttpResponse:
    """Pause a study; what is finished remains."""
    item = _changeable(request, pk)
    services.pause_study(study=item, by=request.user)
    messages.success(
        request, f"{item.name} is paused. Finished stages and checkpoints remain; what other runs need goes on."
    )
    return redirect(item)


@require_POST
@researcher_required
def resume_study(request: SignedInRequest, pk: int) -> HttpResponse:
    """Go on with a study."""
    item = _changeable(request, pk)
    services.resume_study(study=item, by=request.user)
    messages.success(request, f"{item.name} goes on from what is finished and from its checkpoints.")
    return redirect(item)


@require_POST
@researcher_required
def extend_study(request: SignedInRequest, pk: int) -> HttpResponse:
    """Add seeds or values to a study."""
    item = _changeable(request, pk)
    form = ExtendForm(request.POST)
    if not form.is_valid():
        messages.error(request, " ".join(str(error) for errors in form.errors.values() for error in errors))
        return redirect(item)
    try:
        added = services.extend_study(
            study=item, by=request.user, seeds=form.cleaned_data["seeds"], values=form.cleaned_data["grid"]
        )
    except UserError as error:
        messages.error(request, f"{item.name} was not extended: {error}")
    else:
        messages.success(request, f"{added} cells were added to {item.name}.")
    return redirect(item)


@require_POST
@researcher_required
def share_study(request: SignedInRequest, pk: int) -> HttpResponse:
    """Share a study and its runs with every researcher, or keep them to the owner and the admins."""
    item = find_study(request, pk)
    messages.success(request, services.share_study(study=item, by=request.user, shared="shared" in request.POST))
    return redirect(item)


@require_POST
@researcher_required
def remove_study(request: SignedInRequest, pk: int) -> HttpResponse:
    """Remove a study; its runs remain."""
    item = _changeable(request, pk)
    try:
        services.remove_study(study=item, by=request.user)
    except UserError as error:
        messages.error(request, str(error))
        return redirect(item)
    messages.success(request, f"{item.name} was removed. Its runs remain.")
    return redirect("studies")
