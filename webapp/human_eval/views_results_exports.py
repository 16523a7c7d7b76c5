"""Downloads of a campaign's answers and results, and their way back into runs as a preference dataset. All audited."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import conditional_page, require_http_methods, require_safe

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.accounts.audit import record
from webapp.human_eval.exports import COLUMNS, answer_rows, item_lines, json_lines
from webapp.human_eval.models import Campaign
from webapp.human_eval.preference_export import datasets_of, make_preference_dataset, preview
from webapp.human_eval.results import campaign_figures
from webapp.human_eval.results_page import Row, results_page
from webapp.human_eval.results_systems import MEASURES, shown_systems
from webapp.human_eval.results_totals import totals_of
from webapp.human_eval.views_campaigns import find_campaign
from webapp.human_eval.views_results import frame, options_of
from webapp.runs.exports import csv_lines, download

_RESULT_COLUMNS = (
    "system", "kind", "run", "chosen", "chosen_low", "chosen_high", "vote_share", "vote_share_low", "vote_share_high",
    "quality", "quality_low", "quality_high", "items", *MEASURES, "doubt",
)  # fmt: skip


@require_safe
@researcher_required
def answers_csv(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download every answer as CSV that no spreadsheet executes."""
    campaign = _exported(request, pk, "answers.csv")
    return download(
        csv_lines(answer_rows(campaign), COLUMNS), name=f"{campaign.name}-answers.csv", content_type="text/csv"
    )


@require_safe
@researcher_required
def answers_jsonl(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download every answer as JSON lines with the columns of the CSV."""
    campaign = _exported(request, pk, "answers.jsonl")
    lines = json_lines(answer_rows(campaign))
    return download(lines, name=f"{campaign.name}-answers.jsonl", content_type="application/x-ndjson")


@require_safe
@researcher_required
def items_jsonl(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download prompts and responses as JSON lines, an item each."""
    campaign = _exported(request, pk, "items.jsonl")
    return download(item_lines(campaign), name=f"{campaign.name}-items.jsonl", content_type="application/x-ndjson")


@require_safe
@researcher_required
def results_csv(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download the table of the results with its intervals as CSV."""
    campaign = _exported(request, pk, "results.csv")
    figures = campaign_figures(campaign, options_of(request))
    page = results_page(campaign, shown_systems(campaign, request.user), figures, totals_of(campaign))
    rows = (_result_row(row) for row in page.rows)
    return download(csv_lines(rows, _RESULT_COLUMNS), name=f"{campaign.name}-results.csv", content_type="text/csv")


def _result_row(row: Row) -> dict[str, Any]:
    values: dict[str, Any] = {"system": row.name, "items": row.chosen["n"]}
    if row.system:
        run = row.system.run
        values |= {"kind": row.system.kind, "run": run.name if run else ""}
        values |= {key: row.system.rates[key]["value"] for key in MEASURES if row.system.rates.get(key)}
        values["doubt"] = "; ".join(f"{MEASURES[key]}: {doubt}" for key, doubt in row.system.doubts.items())
    for name in ("chosen", "vote_share", "quality"):
        rate = getattr(row, name)
        if rate:
            values |= {name: rate["value"], f"{name}_low": rate["low"], f"{name}_high": rate["high"]}
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}


def _exported(request: SignedInRequest, pk: int, what: str) -> Campaign:
    """Return a campaign that this person may see, with the export written down."""
    campaign = find_campaign(request, pk)
    if request.method == "GET":  # asking for the headers only exports nothing
        record(request.user, "exported", campaign, what=what)
    return campaign


class PreferenceForm(forms.Form):
    """How choices become preference pairs, and what the dataset is called."""

    name = forms.CharField(label="Name of the dataset", max_length=80)
    by = forms.ChoiceField(
        label="Pairs",
        choices=[
            ("majority", "By majority: what more than half of a task’s raters chose, against each other response"),
            ("votes", "By vote: every rater’s choice against each other response; raters who disagree give pairs both ways"),
        ],
        widget=forms.RadioSelect,
        initial="majority",
    )  # fmt: skip


@require_http_methods(["GET", "HEAD", "POST"])
@researcher_required
def preferences(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show what a preference dataset of this campaign would hold; make it when its name is posted."""
    campaign = find_campaign(request, pk)
    form = PreferenceForm(request.POST or None, initial={"name": f"{campaign.name} preferences"[:80], "by": "majority"})
    if request.method == "POST" and form.is_valid():
        try:
            return _made(request, campaign, form.cleaned_data)
        except UserError as error:
            form.add_error(None, f"{str(error)[0].upper()}{str(error)[1:]}.")
    context = {
        **frame(request, campaign, "results"), "form": form,
        "made": datasets_of(campaign, request.user),
        "previews": [(words, preview(campaign, by=by)) for by, words in _ways()],
    }  # fmt: skip
    return render(request, "human_eval/results_preferences.html", context)


def _ways() -> Iterator[tuple[Any, str]]:
    yield "majority", "By majority"
    yield "votes", "By vote"


def _made(request: SignedInRequest, campaign: Campaign, values: dict[str, Any]) -> HttpResponse:
    dataset, pairs = make_preference_dataset(
        campaign=campaign, owner=request.user, name=values["name"], by=values["by"]
    )
    messages.success(
        request, f"{dataset.name}: {len(pairs.rows):,} pairs of {pairs.used:,} tasks. A worker imports it now."
    )
    return redirect("campaign_preferences", campaign.pk)


@require_safe
@conditional_page
@researcher_required
def preferences_live(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled list of the datasets that were made of a campaign."""
    campaign = find_campaign(request, pk)
    made = datasets_of(campaign, request.user)
    return render(request, "human_eval/_results_datasets.html", {"campaign": campaign, "made": made})
