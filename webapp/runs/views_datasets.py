"""Datasets: list, import, look inside, derive, share."""

from typing import Any

from django.core.paginator import Paginator
from django.db import transaction
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import conditional_page, require_POST, require_safe

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.accounts.audit import record, record_download
from webapp.runs import dataset_rows, services, views_imports
from webapp.runs.dataset_page import derive_name, lengths, page_context
from webapp.runs.exports import csv_lines, download
from webapp.runs.forms_datasets import DeriveForm, LengthsForm, NewDatasetForm
from webapp.runs.imports import has_failed
from webapp.runs.lengths import request_lengths
from webapp.runs.listing import searched, sorted_by
from webapp.runs.models import Dataset, RegisteredModel
from webapp.runs.sharing import may_change
from webapp.runs.views_runs import artifacts_needed

_SORTS = {"name": "name", "kind": "kind", "rows": "rows_kept", "rejected": "rows_rejected", "created": "created"}


@require_safe
@researcher_required
def datasets(request: SignedInRequest) -> HttpResponse:
    """List the datasets this person may see."""
    rows = Dataset.objects.visible_to(request.user).select_related("owner", "stage", "derived_from")
    found = sorted_by(request, searched(request, rows, ("name", "source", "licence")), _SORTS, default="-created")
    kind = request.GET.get("kind", "")
    found = found.filter(kind=kind) if kind in Dataset.Kind.values else found
    page = Paginator(found, 25).get_page(request.GET.get("page"))
    return render(request, "runs/datasets.html", {"page": page, "kinds": Dataset.Kind.choices, "kind": kind})


@researcher_required
def new_dataset(request: SignedInRequest) -> HttpResponse:
    """Register a dataset and ask a worker to import it."""
    form = NewDatasetForm(request)
    if request.method == "POST" and form.is_valid():
        try:
            item = _request_import(request, form)
        except UserError as error:
            form.add_error(None, str(error))
        else:
            return redirect(item)
    return render(request, "runs/new_dataset.html", {"form": form})


def _request_import(request: SignedInRequest, form: NewDatasetForm) -> Dataset:
    values = form.cleaned_data
    return services.request_dataset_import(
        owner=request.user,
        name=values["name"],
        kind=values["kind"],
        task=form.task_value,
        config=form.config,
        upload_digest=form.upload_digest,
        source=form.source_value,
        licence=values["licence"],
    )


def _dataset(request: SignedInRequest, pk: int) -> Dataset:
    rows = Dataset.objects.visible_to(request.user).select_related("owner", "stage", "derived_from")
    return get_object_or_404(rows.prefetch_related("stage__shards"), pk=pk)


def _imported(request: SignedInRequest, pk: int) -> Dataset:
    item = _dataset(request, pk)
    if not item.digest:
        message = f"{item.name} has not been imported yet."
        raise Http404(message)
    return item


@require_safe
@researcher_required
@artifacts_needed
def dataset(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Show how far an import is; once done what was kept and rejected, rows, lengths and splits."""
    return _page(request, _dataset(request, pk))


def _page(request: SignedInRequest, item: Dataset, **changed: Any) -> HttpResponse:
    context: dict[str, Any] = {
        "dataset": item,
        "may_change": may_change(request.user, item),
        "failed": has_failed(item),
    }
    if item.digest:
        context |= page_context(request, item)
    return render(request, "runs/dataset.html", context | changed)


@require_safe
@conditional_page
@researcher_required
def dataset_status(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled state of an import."""
    context = {"item": _dataset(request, pk), "polled": True, "was_failed": "failed" in request.GET}
    return render(request, "runs/_import_status.html", context)


@require_safe
@researcher_required
def dataset_rows_file(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download every kept row as a line of JSON."""
    item = _imported(request, pk)
    lines = dataset_rows.rows_as_json_lines(item.digest)
    record_download(request, item, file="rows.jsonl")
    return download(lines, name=f"{item.name}.jsonl", content_type="application/x-ndjson")


@require_safe
@researcher_required
def dataset_rejects_file(request: SignedInRequest, pk: int, ending: str) -> HttpResponseBase:
    """Download the rejected rows with line number and reason, as JSON lines or CSV."""
    item = _imported(request, pk)
    name = f"{item.name}-rejected.{ending}"
    if ending in {"csv", "jsonl"}:
        record_download(request, item, file=f"rejected.{ending}")
    if ending == "csv":
        lines = csv_lines(dataset_rows.rejects(item.digest), dataset_rows.REJECT_COLUMNS)
        return download(lines, name=name, content_type="text/csv")
    if ending == "jsonl":
        lines = dataset_rows.rejects_as_json_lines(item.digest)
        return download(lines, name=name, content_type="application/x-ndjson")
    message = f"rejected rows come as csv or jsonl, not as {ending}."
    raise Http404(message)


@require_POST
@researcher_required
def derive_dataset(request: SignedInRequest, pk: int) -> HttpResponse:
    """Make an SFT dataset from the chosen (or rank-0) replies."""
    item = _imported(request, pk)
    form = DeriveForm({"name": request.POST.get("name") or derive_name(item)})
    if form.is_valid():
        try:
            return redirect(
                services.derive_sft_dataset(dataset=item, owner=request.user, name=form.cleaned_data["name"])
            )
        except UserError as error:
            form.add_error("name", str(error))
    return _page(request, item, derive_form=form)


@require_POST
@researcher_required
def measure_lengths(request: SignedInRequest, pk: int) -> HttpResponse:
    """Ask a worker for the token lengths of a dataset under one model's tokenizer."""
    item = _imported(request, pk)
    models = RegisteredModel.objects.visible_to(request.user).exclude(digest="")
    form = LengthsForm(request.POST, models=models)
    if not form.is_valid():
        return _page(request, item, lengths_form=form)
    with transaction.atomic():
        stage = request_lengths(dataset=item, **form.cleaned_data)
        record(request.user, "measured the lengths of", item, model=form.cleaned_data["model"].name)
    return redirect(f"{item.get_absolute_url()}?profile={stage.pk}#lengths")


@require_safe
@conditional_page
@researcher_required
def dataset_lengths(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled part of the page with the token lengths."""
    item = _imported(request, pk)
    return render(request, "runs/_dataset_lengths.html", lengths(request, item) | {"polled": True})


@require_POST
@researcher_required
def share_dataset(request: SignedInRequest, pk: int) -> HttpResponse:
    """Share a dataset with every researcher, or keep it to its owner and the admins."""
    return views_imports.share(request, _dataset(request, pk))


@require_POST
@researcher_required
def retry_dataset(request: SignedInRequest, pk: int) -> HttpResponse:
    """Try a failed import again."""
    return views_imports.retry(request, _dataset(request, pk))


@require_POST
@researcher_required
def stop_dataset_import(request: SignedInRequest, pk: int) -> HttpResponse:
    """Stop an import that goes on."""
    return views_imports.stop(request, _dataset(request, pk))
