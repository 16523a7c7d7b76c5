"""Deleting a run, a dataset or a model: a page that says what goes, what remains and what forbids it, and its form."""

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.runs.deletion import Deletable, delete, deletion_of
from webapp.runs.models import Dataset, RegisteredModel
from webapp.runs.sharing import may_change
from webapp.runs.views_runs import find_run

_METHODS = ["GET", "HEAD", "POST"]


@require_http_methods(_METHODS)
@researcher_required
def delete_run(request: SignedInRequest, pk: int) -> HttpResponse:
    """Delete a run with the stages that only it needs."""
    return _page(request, find_run(request, pk), then="runs")


@require_http_methods(_METHODS)
@researcher_required
def delete_dataset(request: SignedInRequest, pk: int) -> HttpResponse:
    """Delete a dataset, imported or not."""
    rows = Dataset.objects.visible_to(request.user).select_related("owner", "stage")
    return _page(request, get_object_or_404(rows, pk=pk), then="datasets")


@require_http_methods(_METHODS)
@researcher_required
def delete_model(request: SignedInRequest, pk: int) -> HttpResponse:
    """Delete a registered model, imported or not."""
    rows = RegisteredModel.objects.visible_to(request.user).select_related("owner", "stage")
    return _page(request, get_object_or_404(rows, pk=pk), then="models")


def _page(request: SignedInRequest, item: Deletable, *, then: str) -> HttpResponse:
    if not may_change(request.user, item):
        message = f"only {item.owner.username} or an admin may delete {item.name}."
        raise PermissionDenied(message)
    if request.method == "POST":
        name = item.name
        try:
            delete(request.user, item)
        except UserError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, f"{name} was deleted.")
            return redirect(then)
    context = {"item": item, "deletion": deletion_of(request.user, item), "list": then}
    return render(request, "runs/delete.html", context)
