"""What happened to every answer of a campaign: counted, or not and why. Nothing is left out without being named."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, Exists, OuterRef, Q

from webapp.human_eval.models import Answer, Campaign, Exclusion, Flag, Item, Response, Skip, Slot

_COUNTED = Q(answers__standing=Answer.Standing.COUNTED)


@dataclass(frozen=True)
class Totals:
    """Answers by what became of them, and how far the campaign is."""

    wanted: int  # slots of main items
    counted: int
    excluded: int
    surplus: int
    known: int  # answers of qualification and check items, which never count
    contradicts: int  # counted answers kept although another response scored higher
    rest_on: list[tuple[int, int]]  # counted answers, main items that have so many; most first
    surplus_reasons: list[tuple[str, int]]
    exclusions: list[Exclusion]
    skips: list[tuple[str, int]]
    flags: list[tuple[str, int]]
    open_flags: int
    being_rated: int
    named: int  # main items with a response that names a system or vendor
    excluded_by_rater: dict[int, int] = field(default_factory=dict)

    @property
    def given(self) -> int:
        """Return how many answers of main items were given."""
        return self.counted + self.excluded + self.surplus

    @property
    def items(self) -> int:
        """Return how many main items there are."""
        return sum(items for _, items in self.rest_on)

    @property
    def complete(self) -> int:
        """Return how many slots have a counted answer."""
        return min(self.counted, self.wanted)


def totals_of(campaign: Campaign) -> Totals:
    """Return the totals of a campaign, in a fixed number of queries over narrow columns."""
    standings = _standings(campaign)
    main = {standing: count for (kind, standing), count in standings.items() if kind == Item.Kind.MAIN}
    slots = dict(_main_slots(campaign).values_list("status").annotate(n=Count("pk")).order_by())
    answers = Answer.objects.filter(campaign=campaign, item__kind=Item.Kind.MAIN)
    excluded = answers.filter(standing=Answer.Standing.EXCLUDED)
    flags = Flag.objects.filter(item__campaign=campaign)
    naming = Response.objects.filter(item=OuterRef("pk")).exclude(named="")
    return Totals(
        wanted=sum(count for status, count in slots.items() if status != Slot.Status.VOID),
        counted=main.get(Answer.Standing.COUNTED, 0),
        excluded=main.get(Answer.Standing.EXCLUDED, 0),
        surplus=main.get(Answer.Standing.SURPLUS, 0),
        known=sum(count for (kind, _), count in standings.items() if kind != Item.Kind.MAIN),
        contradicts=answers.filter(standing=Answer.Standing.COUNTED, contradicts=True).count(),
        rest_on=_rest_on(campaign),
        surplus_reasons=_by(answers.filter(standing=Answer.Standing.SURPLUS), "surplus_reason"),
        exclusions=list(Exclusion.objects.filter(campaign=campaign, lifted__isnull=True).select_related("rater", "by")),
        skips=_by(Skip.objects.filter(item__campaign=campaign), "reason", dict(Skip.Reason.choices)),
        flags=_by(flags, "reason", dict(Flag.Reason.choices)),
        open_flags=flags.filter(settled__isnull=True).count(),
        being_rated=slots.get(Slot.Status.LEASED, 0),
        named=_main_items(campaign).filter(Exists(naming)).count(),
        excluded_by_rater=dict(excluded.values_list("rater").annotate(n=Count("pk")).order_by()),
    )


def _main_slots(campaign: Campaign) -> Any:
    return Slot.objects.filter(campaign=campaign, item__kind=Item.Kind.MAIN)


def _main_items(campaign: Campaign) -> Any:
    return Item.objects.filter(campaign=campaign, kind=Item.Kind.MAIN)


def _standings(campaign: Campaign) -> dict[tuple[str, str], int]:
    rows = Answer.objects.filter(campaign=campaign).values_list("item__kind", "standing")
    return {(kind, standing): n for kind, standing, n in rows.annotate(n=Count("pk")).order_by()}


def _rest_on(campaign: Campaign) -> list[tuple[int, int]]:
    counts = _main_items(campaign).annotate(n=Count("answers", filter=_COUNTED)).values_list("n", flat=True)
    return sorted(Counter(counts).items(), reverse=True)


def _by(rows: Any, column: str, words: dict[str, str] | None = None) -> list[tuple[str, int]]:
    """Return the rows' counts by the words of a column, most first."""
    counts = rows.order_by().values_list(column).annotate(n=Count("pk")).order_by("-n", column)
    return [((words or {}).get(value, value) or "no reason given", n) for value, n in counts]
