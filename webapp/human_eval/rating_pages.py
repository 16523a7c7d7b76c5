"""What the rating page shows of a task. Everything is by place on the screen: no index or key of a response goes out."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from django.db.models import F
from django.db.models.functions import Extract, Now

from webapp.human_eval.models import Campaign, Item, Rater, Slot
from webapp.human_eval.rating_forms import SAME, AnswerForm, quality_names
from webapp.human_eval.rating_fragments import menus_of, points_of
from webapp.human_eval.rating_text import rendered
from webapp.human_eval.rows import columns, first_row, made
from webapp.human_eval.standing import Standing

_PACE_OF = 200  # last answers of a rater's own median
_MINUTES_FROM = 100  # seconds
_SPEAKERS = {"user": ("Person", "person"), "assistant": ("Assistant", "assistant"), "system": ("Setting", "setting")}


@dataclass(frozen=True)
class Place:
    """A response where it stands, counted from 1."""

    number: int
    raw: str
    html: str
    points: str
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
    menus: str = ""
    best_missing: bool = False
    may_edit_last: bool = False
    first: bool = False


_SHOWN = f"""
SELECT ARRAY(SELECT index FROM human_eval_response WHERE item_id = item.id ORDER BY index),
       ARRAY(SELECT text FROM human_eval_response WHERE item_id = item.id ORDER BY index),
       ARRAY(
           SELECT active_ms FROM human_eval_answer WHERE campaign_id = item.campaign_id AND rater_id = %(rater)s
           ORDER BY submitted DESC LIMIT {_PACE_OF}
       ), {columns(Item, "item")}
FROM human_eval_item AS item WHERE item.id = %(item)s
"""  # noqa: S608 - made of this module's own words


@dataclass(frozen=True)
class Shown:
    """What is shown of an item to a rater: its responses by index, and how fast this rater was so far."""

    item: Item
    texts: Mapping[int, str]
    pace: str


def shown_item(item: int, rater: Rater) -> Shown:
    """Return what is shown of an item, read in one round trip. Raises Item.DoesNotExist."""
    row = first_row(_SHOWN, {"item": item, "rater": rater.pk})
    found = made(Item, row[3:]) if row else None
    if row is None or found is None:
        raise Item.DoesNotExist
    return Shown(found, dict(zip(row[0], row[1], strict=True)), own_pace(row[2]))


def task_page(  # noqa: PLR0913 - what a page is made of, by name
    shown: Shown,
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
        turns=turns_of(shown.item),
        places=_places(shown.texts, order, campaign, said, errors),
        submit_url=submit_url,
        who=rater.pseudonym,
        same=said.get("best") == SAME,
        reason=said.get("reason", ""),
        errors=form.problems if form is not None else (),
        best_missing="best" in errors,
        menus=menus_of(campaign),
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
    texts: Mapping[int, str], order: str, campaign: Campaign, said: Mapping[str, str], errors: Mapping[str, Any]
) -> list[Place]:
    return [
        Place(
            number=number,
            raw=texts.get(int(index), ""),
            html=rendered(texts.get(int(index), "")),
            points=points_of(campaign, number, said.get(name, "")),
            best=said.get("best") == str(number),
            missing=name in errors,
        )
        for number, (index, name) in enumerate(zip(order, quality_names(campaign), strict=True), start=1)
    ]


def seconds_left(slot: Slot) -> int:
    """Return how long a lease still runs by the database's clock, so that a wrong clock of a rater harms nothing."""
    left = Slot.objects.filter(pk=slot.pk).values_list(Extract(F("lease_expires") - Now(), "epoch"), flat=True).first()
    return max(0, int(left or 0))


def own_pace(active_ms: Sequence[int]) -> str:
    """Return a rater's median time per task in words; empty before the third."""
    seconds = [time / 1000 for time in active_ms if time]
    if len(seconds) < 3:  # noqa: PLR2004 - a median of two says little
        return ""
    middle = statistics.median(seconds)
    words = f"{middle:.0f} s" if middle < _MINUTES_FROM else f"{middle / 60:.0f} min"
    return f"Half of your tasks took less than {words}."


def total_of(where: Standing) -> int:
    """Return about how many tasks there are for this rater: those done, those left, and what others may give back."""
    total = where.done + where.left_for_me + where.leased_by_others
    return min(total, where.maximum) if where.maximum is not None else total
