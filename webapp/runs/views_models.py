"""Models: list, register, look at one, share."""

from django.core.paginator import Paginator
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import conditional_page, require_POST, require_safe

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.runs import services, views_imports
from webapp.runs.artifacts import store
from webapp.runs.forms_models import NewModelForm, models_folder
from webapp.runs.imports import has_failed
from webapp.runs.listing import searched, sorted_by
from webapp.runs.models import RegisteredModel
from webapp.runs.sharing import may_change
from webapp.runs.views_runs import artifacts_needed

_SORTS = {"name": "name", "family": "family", "parameters": "summary__parameters", "created": "created"}


@require_safe
@researcher_required
def models(request: SignedInRequest) -> HttpResponse:
    """List the models this person may see."""
    rows = RegisteredModel.objects.visible_to(request.user).select_related("owner", "stage")
    found = sorted_by(request, searched(request, rows, ("name", "source", "licence")), _SORTS, default="-created")
    page = Paginator(found, 25).get_page(request.GET.get("page"))
    return render(request, "runs/models.html", {"page": page})


@researcher_required
def new_model(request: SignedInRequest) -> HttpResponse:
    """Register a model and ask a worker to import it."""
    form = NewModelForm(request)
    if request.method == "POST" and form.is_valid():
        try:
            model = _request_import(request, form)
        except UserError as error:
            form.add_error(None, str(error))
        else:
            return redirect(model)
    return render(request, "runs/new_model.html", {"form": form, "folder": models_folder()})


def _request_import(request: SignedInRequest, form: NewModelForm) -> RegisteredModel:
    values = form.cleaned_data
    return services.request_model_import(
        owner=request.user,
        name=values["name"],
        config=form.config,
        upload_digest=form.upload_digest,
        source=form.source,
        licence=values["licence"],
    )


def _model(request: SignedInRequest, pk: int) -> RegisteredModel:
    rows = RegisteredModel.objects.visible_to(request.user).select_related("owner", "stage")
    return get_object_or_404(rows.prefetch_related("stage__shards"), pk=pk)


@require_safe
@researcher_required
@artifacts_needed
def model(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Show what is known of a model, and how far its import is."""
    item = _model(request, pk)
    context = {
        "model": item,
        "may_change": may_change(request.user, item),
        "failed": has_failed(item),
        "details": _details(item),
        "chat_template": _chat_template(item),
    }
    return render(request, "runs/model.html", context)


def _details(item: RegisteredModel) -> list[tuple[str, object]]:
    """Return what the import found beyond the figures at the top of the page."""
    shown = {"family", "parameters", "vocabulary", "chat_template", "tokenizer_digest"}
    return [(key.replace("_", " "), value) for key, value in item.summary.items() if key not in shown]


def _chat_template(item: RegisteredModel) -> str:
    """Return the text of the model's chat template, empty where it has none."""
    file = store().path(item.digest) / "model" / "chat_template.jinja" if item.digest else None
    return file.read_text(encoding="utf-8", errors="replace") if file is not None and file.is_file() else ""


@require_safe
@conditional_page
@researcher_required
def model_status(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled state of an import."""
    context = {"item": _model(request, pk), "polled": True, "was_failed": "failed" in request.GET}
    return render(request, "runs/_import_status.html", context)


@require_POST
@researcher_required
def share_model(request: SignedInRequest, pk: int) -> HttpResponse:
    """Share a model with every researcher, or keep it to its owner and the admins."""
    return views_imports.share(request, _model(request, pk))


@require_POST
@researcher_required
def retry_model(request: SignedInRequest, pk: int) -> HttpResponse:
    """Try a failed import again."""
    return views_imports.retry(request, _model(request, pk))


@require_POST
@researcher_required
def stop_model_import(request: SignedInRequest, pk: int) -> HttpResponse:
    """Stop an import that goes on."""
    return views_imports.stop(request, _model(request, pk))
