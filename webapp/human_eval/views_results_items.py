"""The items of a campaign: list, one item with every answer, settling flags."""

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models.functions import Now
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.accounts.audit import record
from webapp.human_eval.models import Campaign, Exclusion, Flag, Item
from webapp.human_eval.results_items import (
    SHOWS,
    ItemRow,
    item_rows,
    matching_items,
    open_flags,
    response_names,
    shown_answers,
    shown_items,
)
from webapp.human_eval.results_systems import ShownSystem, shown_systems
from webapp.human_eval.views_campaigns import changeable, find_campaign
from webapp.human_eval.views_results import frame

_PAGE_SIZE = 25


@require_safe
@researcher_required
def items(request: SignedInRequest, pk: int) -> HttpResponse:
    """List the items, those on which raters disagree most first."""
    campaign = find_campaign(request, pk)
    systems = shown_systems(campaign, request.user)
    words, show = request.GET.get("q", "").replace("\x00", "").strip(), request.GET.get("show", "")
    winner = _winner(show)
    found = shown_items(
        item_rows(campaign),
        show=show,
        sort=request.GET.get("sort", ""),
        matching=matching_items(campaign, words),
        winner=winner,
    )
    page = Paginator(found, _PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        **frame(request, campaign, "items"), "page": page, "rows": _with_prompts(list(page), systems), "words": words,
        "show": show, "shows": [*SHOWS.items(), *((f"won-{s.index}", f"{s.label} won") for s in systems)],
        "systems": systems,
    }  # fmt: skip
    return render(request, "human_eval/results_items.html", context)


def _winner(show: str) -> int | None:
    index = show.removeprefix("won-")
    return int(index) if show.startswith("won-") and index in {"0", "1", "2"} else None


def _with_prompts(rows: list[ItemRow], systems: list[ShownSystem]) -> list[dict[str, Any]]:
    """Return the rows of a page with the beginnings of their prompts, votes beside the systems they are for."""
    prompts = dict(Item.objects.filter(pk__in=[row.pk for row in rows]).values_list("pk", "prompt"))
    by_index = {system.index: system for system in systems}
    return [
        {
            "row": row,
            "prompt": prompts[row.pk],
            "winner": by_index.get(row.outcome) if isinstance(row.outcome, int) else None,
            "votes": list(zip(systems, row.votes, strict=False)),
            "same": row.votes[-1],
            "quality": list(zip(systems, row.quality, strict=False)),
        }
        for row in rows
    ]


@require_safe
@researcher_required
def item(request: SignedInRequest, pk: int, number: int) -> HttpResponse:
    """Show an item: its prompt, every response, what every rater said, flags and skips."""
    campaign = find_campaign(request, pk)
    found = get_object_or_404(Item.objects.prefetch_related("responses"), campaign=campaign, index=number - 1)
    systems = shown_systems(campaign, request.user)
    names = response_names(found, systems)
    colours = {system.index: system for system in systems} if found.kind == Item.Kind.MAIN else {}
    context = {
        **frame(request, campaign, "items"), "item": found, "names": names,
        "responses": [(response, names[response.index], colours.get(response.index)) for response in found.responses.all()],
        "answers": shown_answers(found, names, _reasons(campaign)), "flags": _flags(found, names),
        "skips": found.skips.select_related("rater").order_by("at"), "beside": _neighbours(found),
        "expected": names.get(found.expected_choice) if found.expected_choice is not None else "about the same",
    }  # fmt: skip
    return render(request, "human_eval/results_item.html", context)


def _reasons(campaign: Campaign) -> dict[int, str]:
    return dict(Exclusion.objects.filter(campaign=campaign, lifted__isnull=True).values_list("rater", "reason"))


def _flags(item: Item, names: dict[int, str]) -> list[tuple[Flag, str]]:
    return [(flag, names[flag.response] if flag.response is not None else "") for flag in open_flags(item)]


def _neighbours(item: Item) -> dict[str, Item | None]:
    others = Item.objects.filter(campaign=item.campaign_id).only("index")
    return {
        "before": others.filter(index__lt=item.index).order_by("-index").first(),
        "after": others.filter(index__gt=item.index).order_by("index").first(),
    }


@require_POST
@researcher_required
def settle_flag(request: SignedInRequest, pk: int, flag: int) -> HttpResponse:
    """Note that somebody has looked at a flag, or open it again."""
    campaign = changeable(request, pk)
    found = get_object_or_404(Flag.objects.select_related("item"), pk=flag, item__campaign=campaign)
    again = "again" in request.POST
    Flag.objects.filter(pk=found.pk).update(settled=None if again else Now())
    record(request.user, "reopened" if again else "settled", found, campaign=campaign.pk, item=found.item.number)
    messages.success(
        request, "The flag is open again." if again else "The flag is settled; the answer counts as before."
    )
    return redirect("campaign_item", campaign.pk, found.item.number)
