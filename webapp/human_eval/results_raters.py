"""The raters of a campaign one by one, and what excluding one would do."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Avg, Count, Q

from webapp.human_eval.models import Answer, Campaign, Exclusion, Item, Participation, Rater, Slot

SORTS = ("answers", "median_seconds", "severity", "agreement", "same_share", "left_share")
_MAIN = Q(item__kind=Item.Kind.MAIN)


@dataclass(frozen=True)
class RaterRow:
    """A rater with the figures of their counted answers; of an excluded one nothing but how many there were."""

    rater: Rater
    participation: Participation | None
    figures: Mapping[str, Any]
    exclusion: Exclusion | None
    given: int  # answers of main items, whatever became of them

    @property
    def flags(self) -> Sequence[str]:
        """Return what looks odd."""
        return list(self.figures.get("flags", ()))


def rater_rows(campaign: Campaign, figures: Mapping[str, Any], sort: str = "") -> list[RaterRow]:
    """Return everybody who joined or answered: the odd ones first unless another order is asked for."""
    by_rater = {row["rater"]: row for row in figures.get("raters", [])}
    taken = Answer.objects.filter(_MAIN, campaign=campaign).order_by()
    given = dict(taken.values_list("rater").annotate(n=Count("pk")))
    joined = {row.rater_id: row for row in Participation.objects.filter(campaign=campaign)}
    excluded = {
        row.rater_id: row
        for row in Exclusion.objects.filter(campaign=campaign, lifted__isnull=True).select_related("by")
    }
    raters = Rater.objects.filter(pk__in={*given, *joined, *excluded}).select_related("user")
    rows = [
        RaterRow(
            rater, joined.get(rater.pk), by_rater.get(rater.pk, {}), excluded.get(rater.pk), given.get(rater.pk, 0)
        )
        for rater in raters
    ]
    return _ordered(rows, sort)


def _ordered(rows: list[RaterRow], sort: str) -> list[RaterRow]:
    name = sort.removeprefix("-")
    if name not in SORTS:
        return sorted(rows, key=lambda row: (not row.flags, row.exclusion is not None, -row.given, row.rater.pseudonym))
    known = [row for row in rows if row.figures.get(name) is not None]
    known.sort(key=lambda row: row.figures[name], reverse=sort.startswith("-"))
    return known + [row for row in rows if row.figures.get(name) is None]


@dataclass(frozen=True)
class Consequences:
    """What excluding a rater, or lifting that, would do now."""

    answers: int  # counted answers that would no longer count; or excluded ones that would count again
    items: int
    reopened: int  # places that would go to other raters, while the campaign is open
    rest_on: list[tuple[int, int]]  # of these items: how many would rest on so many counted answers
    lost: int = 0  # of excluded answers: those whose place somebody else has taken meanwhile


def if_excluded(campaign: Campaign, rater: Rater) -> Consequences:
    """Return what excluding this rater would do."""
    mine = Answer.objects.filter(_MAIN, campaign=campaign, rater=rater, standing=Answer.Standing.COUNTED)
    items = set(mine.values_list("item", flat=True))
    others = Answer.objects.filter(item__in=items, standing=Answer.Standing.COUNTED).exclude(rater=rater)
    counts = dict(others.order_by().values_list("item").annotate(n=Count("pk")))
    left = Counter(counts.get(item, 0) for item in items)
    is_open = campaign.status == Campaign.Status.OPEN
    return Consequences(len(items), len(items), len(items) if is_open else 0, sorted(left.items(), reverse=True))


def if_lifted(campaign: Campaign, rater: Rater) -> Consequences:
    """Return what lifting this rater's exclusion would do."""
    mine = Answer.objects.filter(_MAIN, campaign=campaign, rater=rater, standing=Answer.Standing.EXCLUDED)
    free = mine.filter(slot__status=Slot.Status.OPEN).count()
    items = mine.count()
    return Consequences(free, items, 0, [], items - free)


def history(campaign: Campaign, rater: Rater) -> list[Exclusion]:
    """Return every exclusion of a rater, lifted or not, the latest first."""
    return list(Exclusion.objects.filter(campaign=campaign, rater=rater).select_related("by", "lifted_by"))


def rater_answers(campaign: Campaign, rater: Rater) -> Any:
    """Return a rater's answers, the latest first."""
    return Answer.objects.filter(campaign=campaign, rater=rater).select_related("item").order_by("-submitted", "-pk")


def mean_seconds(campaign: Campaign, rater: Rater) -> float | None:
    """Return the mean active seconds of all answers of a rater, also of an excluded one."""
    mean = rater_answers(campaign, rater).order_by().aggregate(mean=Avg("active_ms"))["mean"]
    return None if mean is None else mean / 1000
