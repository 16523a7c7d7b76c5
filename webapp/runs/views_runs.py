"""Runs: list, watch, stop, resume, share, download the recipe."""

from functools import wraps
from typing import Any, ParamSpec

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import conditional_page, require_POST, require_safe

from rso_core.config import RunConfig, dump_run_config
from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, View, researcher_required
from webapp.accounts.audit import record_download
from webapp.runs import services
from webapp.runs.curves import run_curves
from webapp.runs.exports import csv_lines, download
from webapp.runs.listing import searched, sorted_by
from webapp.runs.models import LIVE, Run, RunStage, Status
from webapp.runs.run_page import lineage, run_page, status_as_json
from webapp.runs.run_results import System, results_as_json, system_of
from webapp.runs.sharing import may_change, set_shared

_SORTS = {"name": "name", "state": "status", "created": "created", "finished": "finished", "owner": "owner__username"}
_PAGE_SIZE = 25
_COLUMNS = (
    "run", "state", "system", "loss", "pairs", "preferences", "base", "seed", "owner", "launched", "proxy", "proxy_low",
    "proxy_high", "gold", "gold_low", "gold_high", "difference", "difference_low", "difference_high",
)  # fmt: skip


P = ParamSpec("P")


def artifacts_needed(view: View[P]) -> View[P]:
    """Answer 404 with the reason where the store has lost an artifact that a page reads."""

    @wraps(view)
    def read(request: SignedInRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except (UserError, FileNotFoundError) as error:
            raise Http404(str(error)) from error

    return read


def find_run(request: SignedInRequest, pk: int) -> Run:
    """Return a run that this person may see, or answer 404."""
    return get_object_or_404(Run.objects.visible_to(request.user).select_related("owner", "cloned_from"), pk=pk)


def _changeable_run(request: SignedInRequest, pk: int) -> Run:
    run = find_run(request, pk)
    if not may_change(request.user, run):
        message = f"only {run.owner.username} or an admin may stop or resume {run.name}. You may clone it."
        raise PermissionDenied(message)
    return run


@require_safe
@researcher_required
def runs(request: SignedInRequest) -> HttpResponse:
    """List the runs this person may see."""
    is_done = Q(run_stages__stage__status=Status.DONE)
    counted = _listed(request).annotate(stages_done=Count("run_stages", filter=is_done), stages_all=Count("run_stages"))
    page = Paginator(counted, _PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": _with_reports(list(page)),
        "states": Status.choices,
        "state": request.GET.get("state", ""),
    }
    return render(request, "runs/runs.html", context)


def _listed(request: SignedInRequest) -> QuerySet[Run]:
    """Return the runs that the query string asks for, in its order."""
    rows = Run.objects.visible_to(request.user).select_related("owner")
    searched_rows = searched(request, rows, ("name", "owner__username", "message"))
    found = sorted_by(request, searched_rows, _SORTS, default="-created")
    state = request.GET.get("state", "")
    return found.filter(status=state) if state in Status.values else found


def _with_reports(shown: list[Run]) -> list[tuple[Run, System, dict[str, Any]]]:
    """Return runs with the system they make and the summary of their report, in one query."""
    reports = RunStage.objects.filter(run__in=shown, key="report", stage__status=Status.DONE)
    summaries = dict(reports.values_list("run", "stage__summary"))
    return [(run, system_of(run.config), summaries.get(run.pk, {})) for run in shown]


@require_safe
@researcher_required
def runs_csv(request: SignedInRequest) -> HttpResponseBase:
    """Download the list of runs, searched and sorted as on the page, with their figures."""
    rows = (_as_row(*item) for item in _with_reports(list(_listed(request))))
    record_download(request, "list of runs", file="runs.csv", query=request.GET.urlencode())
    return download(csv_lines(rows, _COLUMNS), name="runs.csv", content_type="text/csv")


def _as_row(run: Run, system: System, report: dict[str, Any]) -> dict[str, Any]:
    row = {
        "run": run.name, "state": run.status, "system": system.name, "loss": system.loss, "pairs": system.pair_source,
        "preferences": run.config["data"]["preferences"], "base": run.config["model"]["base"], "seed": run.config["seed"],
        "owner": run.owner.username, "launched": run.created.isoformat(timespec="seconds"),
    }  # fmt: skip
    figures = {
        "proxy": report.get("policy", {}).get("proxy"), "gold": report.get("policy", {}).get("gold"),
        "difference": report.get("difference", {}).get("proxy"),
    }  # fmt: skip
    for name, rate in figures.items():
        ends = rate or {"value": "", "low": "", "high": ""}
        row |= {
            name: _rounded(ends["value"]),
            f"{name}_low": _rounded(ends["low"]),
            f"{name}_high": _rounded(ends["high"]),
        }
    return row


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


@require_safe
@researcher_required
def run(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show a run: how far it is, what came out."""
    item = find_run(request, pk)
    page = run_page(item)
    context = {
        "run": item,
        "page": page,
        "tab": "overview",
        "system": page.system,
        "is_live": item.status in LIVE,
        "may_change": may_change(request.user, item),
        "curves": run_curves(item.pk, page.system.colour),
    }
    return render(request, "runs/run.html", context)


@require_safe
@conditional_page
@researcher_required
def run_live(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled part of a run's page."""
    item = find_run(request, pk)
    was_live = request.GET.get("was") == "live"
    context = {"run": item, "page": run_page(item), "reload": was_live != (item.status in LIVE)}
    return render(request, "runs/_run_live.html", context)


@require_safe
@conditional_page
@researcher_required
def run_curves_live(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled curves of a run."""
    item = find_run(request, pk)
    curves = run_curves(item.pk, system_of(item.config).colour)
    return render(request, "runs/_run_curves.html", {"run": item, "curves": curves, "is_live": item.status in LIVE})


@require_safe
@conditional_page
@researcher_required
def run_status(request: SignedInRequest, pk: int) -> JsonResponse:
    """Return where a run stands, for programs."""
    page = run_page(find_run(request, pk))
    return JsonResponse({**status_as_json(page), "results": results_as_json(page.results)})


@require_safe
@researcher_required
def run_details(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show the recipe of a run and where everything it made comes from."""
    item = find_run(request, pk)
    context = {
        "run": item,
        "tab": "details",
        "system": system_of(item.config),
        "is_live": item.status in LIVE,
        "may_change": may_change(request.user, item),
        "recipe": recipe_of(item),
        "lineage": lineage(item),
    }
    return render(request, "runs/run_details.html", context)


def recipe_of(item: Run) -> str:
    """Return the configuration of a run as YAML."""
    return dump_run_config(RunConfig.model_validate(item.config))


@require_safe
@researcher_required
def run_recipe(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download the configuration of a run as YAML."""
    item = find_run(request, pk)
    record_download(request, item, file="recipe.yaml")
    return download([recipe_of(item)], name=f"{item.name}.yaml", content_type="application/yaml")


@require_POST
@researcher_required
def stop_run(request: SignedInRequest, pk: int) -> HttpResponse:
    """Stop a run; what other runs need goes on."""
    item = _changeable_run(request, pk)
    services.stop_run(run=item, by=request.user)
    messages.success(
        request, f"{item.name} is stopped. Finished stages and checkpoints remain; stages that other runs need go on."
    )
    return redirect(item)


@require_POST
@researcher_required
def resume_run(request: SignedInRequest, pk: int) -> HttpResponse:
    """Go on with a run that was stopped or failed."""
    item = _changeable_run(request, pk)
    services.resume_run(run=item, by=request.user)
    messages.success(request, f"{item.name} goes on from what is finished and from its checkpoints.")
    return redirect(item)


@require_POST
@researcher_required
def share_run(request: SignedInRequest, pk: int) -> HttpResponse:
    """Share a run with every researcher, or keep it to its owner and the admins."""
    item = find_run(request, pk)
    messages.success(request, set_shared(request.user, item, shared="shared" in request.POST))
    return redirect(item)
