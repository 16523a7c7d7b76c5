"""What the rating page shows of a task. Everything is by place on the screen: no index or key of a response goes out."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from django.db.models import F
from django.db.models.functions import Extract, Now

from webapp.human_eval.models import Answer, Campaign, Item, Rater, Response, Slot
from webapp.human_eval.rating_forms import SAME, AnswerForm, quality_names
from webapp.human_eval.rating_text import rendered
from webapp.human_eval.standing import Standing

_PACE_OF = 200  # last answers of a rater's own median
_MINUTES_FROM = 100  # seconds
_SPEAKERS = {"user": ("Person", "person"), "assistant": ("Assistant", "assistant"), "system": ("Setting", "setting")}


@dataclass(frozen=True)
class Point:
    """A point of the scale."""

    value: int
    anchor: str
    chosen: bool


@dataclass(frozen=True)
class Place:
    """A response where it stands, counted from 1."""

    number: int
    raw: str
    html: str
    points: Sequence[Point]
    best: bool
    missing: bool


@dataclass(frozen=True)
class Turn:
    """A message of a dialogue, or the whole prompt."""

    who: str
    side: str
    raw: str
    html: str


@dataclass
class TaskPage:
    """Everything that the template of a task needs."""

    heading: str
    turns: Sequence[Turn]
    places: Sequence[Place]
    submit_url: str
    who: str
    token: str = ""
    client_id: str = field(default_factory=lambda: str(uuid4()))
    mode: str = "new"  # or practice: the answer is marked before anything else; or edit
    about: int | None = None
    lede: str = ""
    lease: int | None = None  # seconds
    same: bool = False
    reason: str = ""
    asks: bool = False
    errors: Sequence[str] = ()
    flag_error: str = ""
    best_missing: bool = False
    may_edit_last: bool = False
    first: bool = False


def task_page(  # noqa: PLR0913 - what a page is made of, by name
    item: Item,
    order: str,
    *,
    campaign: Campaign,
    said: Mapping[str, str],
    form: AnswerForm | None = None,
    heading: str,
    submit_url: str,
    rater: Rater,
) -> TaskPage:
    """Return the page of an item whose responses stand in `order`; `said` is what was filled in already."""
    errors = form.errors if form is not None else {}
    return TaskPage(
        heading=heading,
        turns=turns_of(item),
        places=_places(item, order, campaign, said, errors),
        submit_url=submit_url,
        who=rater.pseudonym,
        same=said.get("best") == SAME,
        reason=said.get("reason", ""),
        errors=form.problems if form is not None else (),
        best_missing="best" in errors,
    )


def turns_of(item: Item) -> list[Turn]:
    """Return a dialogue as its turns, anything else as one."""
    messages = [message for message in item.messages if isinstance(message, dict)]
    if len(messages) < 2:  # noqa: PLR2004 - one message is no dialogue
        return [Turn("", "", item.prompt, rendered(item.prompt))]
    return [_turn(str(message.get("role", "")), str(message.get("content", ""))) for message in messages]


def _turn(role: str, text: str) -> Turn:
    who, side = _SPEAKERS.get(role, ("Somebody else", "setting"))
    return Turn(who, side, text, rendered(text))


def _places(
    item: Item, order: str, campaign: Campaign, said: Mapping[str, str], errors: Mapping[str, Any]
) -> list[Place]:
    texts = dict(Response.objects.filter(item=item).values_list("index", "text"))
    return [
        Place(
            number=number,
            raw=texts.get(int(index), ""),
            html=rendered(texts.get(int(index), "")),
            points=_points(campaign, said.get(name, "")),
            best=said.get("best") == str(number),
            missing=name in errors,
        )
        for number, (index, name) in enumerate(zip(order, quality_names(campaign), strict=True), start=1)
    ]


def _points(campaign: Campaign, chosen: str) -> list[Point]:
    return [
        Point(value, str(campaign.anchors.get(str(value), "")), str(value) == chosen)
        for value in range(campaign.scale_min, campaign.scale_max + 1)
    ]


def seconds_left(slot: Slot) -> int:
    """Return how long a lease still runs by the database's clock, so that a wrong clock of a rater harms nothing."""
    left = Slot.objects.filter(pk=slot.pk).values_list(Extract(F("lease_expires") - Now(), "epoch"), flat=True).first()
    return max(0, int(left or 0))


def own_pace(campaign: Campaign, rater: Rater) -> str:
    """Return the rater's own median time per task in words; empty before the third."""
    times = Answer.objects.filter(campaign=campaign, rater=rater).order_by("-submitted")
    seconds = [time / 1000 for time in times.values_list("active_ms", flat=True)[:_PACE_OF] if time]
    if len(seconds) < 3:  # noqa: PLR2004 - a median of two says little
        return ""
    middle = statistics.median(seconds)
    words = f"{middle:.0f} s" if middle < _MINUTES_FROM else f"{middle / 60:.0f} min"
    return f"Half of your tasks took less than {words}."


def total_of(where: Standing) -> int:
    """Return about how many tasks there are for this rater: those done, those left, and what others may give back."""
    total = where.done + where.left_for_me + where.leased_by_others
    return min(total, where.maximum) if where.maximum is not None else total
