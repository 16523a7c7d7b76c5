"""Campaigns: list, create, watch, open, pause, close, change, share."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Q, QuerySet
from django.http import HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import conditional_page, require_http_methods, require_POST, require_safe

from rso_core.errors import UserError
from rso_core.human_eval_power import GAPS, Assumptions, PowerRow, largest_gap, power, power_table, prompts_needed
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.accounts.audit import record_download
from webapp.human_eval import services
from webapp.human_eval.campaign_page import doubts_of, needs_of, progress_of, system_rows
from webapp.human_eval.campaign_texts import TEMPLATES
from webapp.human_eval.changes import why_fixed
from webapp.human_eval.creation import Created
from webapp.human_eval.forms_campaigns import SettingsForm, form_values, template_values
from webapp.human_eval.forms_contents import NewCampaignForm, contents_of
from webapp.human_eval.launching import what_is_missing
from webapp.human_eval.models import Campaign, Slot
from webapp.runs.exports import download
from webapp.runs.listing import searched, sorted_by
from webapp.runs.models import Dataset, Run
from webapp.runs.sharing import may_change, set_shared
from webapp.runs.views_runs import artifacts_needed

_SORTS = {"name": "name", "state": "status", "created": "created", "opened": "opened", "owner": "owner__username"}
_PAGE_SIZE = 25
_PROMPTS = (50, 100, 200, 400, 800)
_MOST = 100_000


def find_campaign(request: SignedInRequest, pk: int) -> Campaign:
    """Return a campaign that this person may see, or answer 404."""
    rows = Campaign.objects.visible_to(request.user).filter(kind=Campaign.Kind.CAMPAIGN)
    return get_object_or_404(rows.select_related("owner", "dataset"), pk=pk)


def changeable(request: SignedInRequest, pk: int) -> Campaign:
    """Return a campaign that this person may change; refuse where they only may see it."""
    campaign = find_campaign(request, pk)
    if not may_change(request.user, campaign):
        message = f"only {campaign.owner.username} or an admin may change {campaign.name}. You may clone it."
        raise PermissionDenied(message)
    return campaign


def frame(request: SignedInRequest, campaign: Campaign, tab: str) -> dict[str, Any]:
    """Return what the frame of every page of a campaign needs."""
    return {"campaign": campaign, "tab": tab, "may_change": may_change(request.user, campaign)}


@require_safe
@researcher_required
def campaigns(request: SignedInRequest) -> HttpResponse:
    """List the campaigns this person may see."""
    page = Paginator(_listed(request), _PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": _with_progress(list(page)),
        "states": Campaign.Status.choices,
        "state": request.GET.get("state", ""),
    }
    return render(request, "human_eval/campaigns.html", context)


def _listed(request: SignedInRequest) -> QuerySet[Campaign]:
    rows = Campaign.objects.visible_to(request.user).filter(kind=Campaign.Kind.CAMPAIGN)
    rows = rows.select_related("owner", "dataset").prefetch_related("systems")
    found = sorted_by(
        request, searched(request, rows, ("name", "title", "owner__username")), _SORTS, default="-created"
    )
    state = request.GET.get("state", "")
    return found.filter(status=state) if state in Campaign.Status.values else found


def _with_progress(shown: list[Campaign]) -> list[tuple[Campaign, Mapping[str, Any]]]:
    """Return campaigns with how many answers are there and wanted, in one query."""
    slots = Slot.objects.filter(campaign__in=shown, item__kind="main").exclude(status=Slot.Status.VOID)
    counts = slots.values("campaign").annotate(
        wanted=Count("pk"), submitted=Count("pk", filter=Q(status=Slot.Status.SUBMITTED))
    )
    by_campaign: dict[int, Mapping[str, Any]] = {row["campaign"]: row for row in counts.order_by()}
    return [(campaign, by_campaign.get(campaign.pk, {})) for campaign in shown]


@require_http_methods(["GET", "HEAD", "POST"])
@researcher_required
@artifacts_needed
def new_campaign(request: SignedInRequest) -> HttpResponseBase:
    """Show the form of a new campaign; make a draft of what is posted."""
    if request.method != "POST":
        return _new_page(request, NewCampaignForm(user=request.user, initial=_first_values(request)))
    form = NewCampaignForm(request.POST, user=request.user)
    if form.is_valid():
        try:
            created = services.create_campaign(owner=request.user, values=form.campaign_values, systems=form.systems)
        except UserError as error:
            form.add_error(None, str(error))
        else:
            tell_left_out(request, created)
            return redirect(created.campaign)
    return _new_page(request, form)


def tell_left_out(request: SignedInRequest, created: Created) -> None:
    """Say how many prompts a campaign cannot use."""
    if count := created.prompts.trained_on:
        messages.warning(request, f"{count:,} prompts were left out, because a chosen system was trained on them.")


def _new_page(request: SignedInRequest, form: NewCampaignForm) -> HttpResponse:
    values = {name: form[name].value() for name in ("num_items", "replicas", "system_3")}
    context = {
        "form": form,
        "template": request.GET.get("template", ""),
        "power": power_of({**values, "gap": request.POST.get("gap")}),
        "has_datasets": Dataset.objects.visible_to(request.user).exclude(digest="").exists(),
    }
    return render(request, "human_eval/new_campaign.html", context)


def _first_values(request: SignedInRequest) -> dict[str, Any]:
    """Return what the form begins with: a template's texts, a campaign to clone, a run to compare."""
    task = request.GET.get("template", "")
    values = template_values(task if task in TEMPLATES else "summarization")
    clone = _number(request.GET.get("clone"), 0)
    source = Campaign.objects.visible_to(request.user).filter(pk=clone).first() if clone else None
    if source is not None:
        values |= _cloned(source)
    run = Run.objects.visible_to(request.user).filter(pk=_number(request.GET.get("run"), 0)).first()
    if run is not None:
        values |= {"system_1": f"policy:{run.pk}", "system_2": f"sft:{run.pk}", "system_3": "target"}
        values["dataset"] = Dataset.objects.filter(name=run.config["data"]["sft"]).values_list("pk", flat=True).first()
    return values


def _cloned(source: Campaign) -> dict[str, Any]:
    name = f"{source.name[:110]} (copy)"
    return {**form_values(source), **contents_of(source, keep_uploads=False), "name": name}


@require_safe
@researcher_required
def campaign_power(request: SignedInRequest) -> HttpResponse:
    """Return what so many prompts and raters can show, for the form."""
    return render(request, "human_eval/_power.html", {"power": power_of(request.GET.dict())})


def power_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what so many prompts and raters can show, and how many prompts a gap needs, for `_power.html`."""
    prompts = _number(values.get("num_items"), 0)
    raters = max(1, min(25, _number(values.get("replicas"), 3)))
    assumptions = Assumptions(systems=3 if values.get("system_3") else 2)
    shown = sorted({*_PROMPTS, prompts} - {0, 1})
    rows: list[PowerRow] = power_table(tuple(shown), (raters,), assumptions=assumptions)
    ten = power(prompts, raters, 0.10, assumptions) if prompts > 1 else None
    chosen = next((row for row in rows if row.prompts == prompts), None)
    gap = max(1, min(int(100 * largest_gap(assumptions)), _number(values.get("gap"), 8))) / 100
    return {
        "rows": rows, "raters": raters, "prompts": prompts, "chosen": chosen, "ten": ten, "systems": assumptions.systems,
        "same": assumptions.same_share, "gap": gap, "wanted": prompts_needed(gap, raters, assumptions),
        "needed": [prompts_needed(each, raters, assumptions) for each in GAPS],
    }  # fmt: skip


def _number(text: Any, default: int) -> int:
    value = str(text or "")
    return min(_MOST, int(value)) if value.isascii() and value.isdecimal() and len(value) < 10 else default  # noqa: PLR2004


@require_safe
@researcher_required
def campaign(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show a campaign: where it stands, how far it is, what needs its researcher."""
    item = find_campaign(request, pk)
    return render(request, "human_eval/campaign.html", frame(request, item, "campaign") | _live(item))


def _live(item: Campaign) -> dict[str, Any]:
    progress, doubts = progress_of(item), doubts_of(item)
    return {
        "progress": progress,
        "doubts": doubts,
        "needs": needs_of(item, progress, doubts),
        "systems": system_rows(item),
        "missing": what_is_missing(item) if item.status == Campaign.Status.DRAFT else [],
        "known": dict(item.items.exclude(kind="main").values_list("kind").annotate(Count("pk")).order_by()),
    }


@require_safe
@conditional_page
@researcher_required
def campaign_live(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled part of a campaign's page."""
    item = find_campaign(request, pk)
    context = frame(request, item, "campaign") | _live(item)
    reload = request.GET.get("was", item.status) != item.status or ("draft" in request.GET) != bool(context["missing"])
    return render(request, "human_eval/_campaign_live.html", context | {"reload": reload})


@require_safe
@conditional_page
@researcher_required
def campaign_status(request: SignedInRequest, pk: int) -> JsonResponse:
    """Return where a campaign stands, for programs."""
    item = find_campaign(request, pk)
    progress = progress_of(item)
    figures = {**asdict(progress), "wanted": progress.wanted, "seconds_left": progress.seconds_left}
    missing = what_is_missing(item) if item.status == Campaign.Status.DRAFT else []
    return JsonResponse({"name": item.name, "status": item.status, "progress": figures, "missing": missing})


@require_POST
@researcher_required
def move_campaign(request: SignedInRequest, pk: int) -> HttpResponse:
    """Open, pause or close a campaign."""
    item = changeable(request, pk)
    to = request.POST.get("to", "")
    if to in Campaign.Status.values:
        try:
            services.move(item, to, by=request.user)
        except UserError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, _MOVED[to].format(item.name))
    return redirect(item)


_MOVED = {
    "open": "{} is open: raters get tasks from now on.",
    "paused": "{} is paused: nobody gets a new task. What raters have in hand they may still send.",
    "closed": "{} is closed. You may open it again.",
}


@require_POST
@researcher_required
def share_campaign(request: SignedInRequest, pk: int) -> HttpResponse:
    """Share a campaign with every researcher, or keep it to its owner and the admins."""
    item = find_campaign(request, pk)
    messages.success(request, set_shared(request.user, item, shared="shared" in request.POST))
    return redirect(item)


@require_POST
@researcher_required
def remove_campaign(request: SignedInRequest, pk: int) -> HttpResponse:
    """Remove a draft."""
    item = changeable(request, pk)
    try:
        services.remove_draft(item, by=request.user)
    except UserError as error:
        messages.error(request, str(error))
        return redirect(item)
    messages.success(request, f"{item.name} was removed.")
    return redirect("campaigns")


@require_http_methods(["GET", "HEAD", "POST"])
@researcher_required
def campaign_settings(request: SignedInRequest, pk: int) -> HttpResponse:
    """Change what may still be changed."""
    item = changeable(request, pk)
    reason = why_fixed(item)
    form = SettingsForm(request.POST if request.method == "POST" else None, campaign=item, fixed=bool(reason))
    if request.method == "POST" and form.is_valid():
        try:
            changed = services.edit_campaign(item, form.campaign_values, by=request.user)
            services.rename_systems(item, form.labels, by=request.user)
        except UserError as error:
            form.add_error(None, str(error))
        else:
            asked_again = " Raters are asked to agree to the new consent text." if "consent" in changed else ""
            messages.success(request, f"{item.name} was changed.{asked_again}")
            return redirect(item)
    return render(
        request,
        "human_eval/campaign_settings.html",
        frame(request, item, "settings") | {"form": form, "reason": reason},
    )


@require_safe
@researcher_required
def campaign_prompts(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download the prompts of a campaign as JSON lines, to answer them elsewhere."""
    item = find_campaign(request, pk)

    def lines() -> Iterator[str]:
        for row in item.items.filter(kind="main").values("prompt_id", "prompt", "messages").order_by("index"):
            yield json.dumps(row, ensure_ascii=False) + "\n"

    record_download(request, item, file="prompts.jsonl")
    return download(lines(), name=f"{item.name}-prompts.jsonl", content_type="application/x-ndjson")
