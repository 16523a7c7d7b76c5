"""Parts of the rating page that many tasks have in common, made once: half of what a page's template costs."""

from dataclasses import dataclass
from functools import lru_cache

from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString

from webapp.human_eval.models import Campaign, Flag, Skip

_KEPT = 1024  # of each: campaigns at work, times the places and points of their scales


@dataclass(frozen=True)
class Point:
    """A point of the scale."""

    value: int
    anchor: str
    chosen: bool


def points_of(campaign: Campaign, place: int, chosen: str) -> SafeString:
    """Return the points of the scale under the response at a place; `chosen` is the value that is marked, or ""."""
    scale = range(campaign.scale_min, campaign.scale_max + 1)
    anchors = tuple(str(campaign.anchors.get(str(value), "")) for value in scale)
    return _points(campaign.scale_min, anchors, place, chosen)


@lru_cache(maxsize=_KEPT)
def _points(lowest: int, anchors: tuple[str, ...], place: int, chosen: str) -> SafeString:
    points = [Point(value, anchor, str(value) == chosen) for value, anchor in enumerate(anchors, start=lowest)]
    return render_to_string("human_eval/_rate_points.html", {"points": points, "number": place})


def menus_of(campaign: Campaign) -> SafeString:
    """Return the menus by which a task is flagged and skipped."""
    return _menus(campaign.way, reverse("rate_flag", args=[campaign.pk]), reverse("rate_skip", args=[campaign.pk]))


@lru_cache(maxsize=_KEPT)
def _menus(way: int, flag_url: str, skip_url: str) -> SafeString:
    context = {
        "places": range(1, way + 1),
        "flag_url": flag_url,
        "skip_url": skip_url,
        "flag_reasons": Flag.Reason.choices,
        "skip_reasons": Skip.Reason.choices,
    }
    return render_to_string("human_eval/_rate_menus.html", context)
