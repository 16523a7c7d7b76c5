"""The item browser: every item with what its raters said, disagreements first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from django.db.models import Count, Exists, OuterRef, Q

from rso_core.human_eval import by_item
from rso_core.ratings import SAME, Ratings
from webapp.human_eval.models import Answer, Campaign, Flag, Item, Response
from webapp.human_eval.results_data import read_ratings, state_of
from webapp.human_eval.results_systems import ShownSystem

NO_MAJORITY, SAME_WORD, UNRATED = "no majority", "same", "unrated"  # outcomes besides the index of a system
SHOWS = {
    "": "all tasks", "split": "raters disagree", "agreed": "all raters agree", "no_majority": "no majority",
    "same": "“same” won", "unrated": "not rated yet", "flagged": "flags to settle", "named": "a response names a system",
    "identical": "identical responses", "known": "qualification and check tasks",
}  # fmt: skip
SORTS = ("disagreement", "index", "answers", "spread")


@dataclass(frozen=True)
class ItemRow:
    """An item in the list. `votes` are those of each system, then of "same"; `outcome` is an index or a word."""

    pk: int
    index: int
    kind: str
    answers: int
    votes: tuple[float, ...]
    outcome: int | str
    disagreement: float  # share of the pairs of raters who chose differently
    spread: float  # of the qualities given to one response, as a standard deviation
    quality: tuple[float, ...]
    is_identical: bool
    open_flags: int
    skips: int
    is_named: bool
    wrong: int = 0  # answers of a known item that are not the expected one

    @property
    def number(self) -> int:
        """Return what people call the item."""
        return self.index + 1


def item_rows(campaign: Campaign) -> list[ItemRow]:
    """Return every item of a campaign, without its texts, in the order of their index."""
    rated = _rated_items(campaign, state_of(campaign))
    known = _known(campaign)
    way = campaign.way
    nothing = {
        "answers": 0, "votes": (0.0,) * (way + 1), "outcome": UNRATED, "disagreement": 0.0, "spread": 0.0, "quality": (),
        "is_identical": False,
    }  # fmt: skip
    named = Response.objects.filter(item=OuterRef("pk")).exclude(named="")
    rows = Item.objects.filter(campaign=campaign).annotate(
        open_flags=Count("flags", filter=Q(flags__settled__isnull=True), distinct=True),
        skipped=Count("skips", distinct=True),
        is_named=Exists(named),
    )
    columns = rows.order_by("index").values_list("pk", "index", "kind", "open_flags", "skipped", "is_named")
    return [
        ItemRow(
            pk=pk, index=index, kind=kind, open_flags=flags, skips=skips, is_named=is_named,
            **{**nothing, **rated.get(pk, {}), **known.get(pk, {})},
        )
        for pk, index, kind, flags, skips, is_named in columns
    ]  # fmt: skip


@lru_cache(maxsize=16)  # the pages of one list are looked through one after the other
def _rated_items(campaign: Campaign, _state: str) -> dict[int, dict[str, Any]]:
    """Return what was said about every rated item, in the state of the campaign's answers that the digest names."""
    ratings = read_ratings(campaign)
    return _rated(ratings) if len(ratings) else {}


def _rated(ratings: Ratings) -> dict[int, dict[str, Any]]:
    items = by_item(ratings)
    disagreement, spread = _disagreement(ratings), _spread(ratings)
    systems = ratings.systems
    words: list[int | str] = [*range(systems), SAME_WORD, NO_MAJORITY]
    won = items.chosen.argmax(axis=1)
    return {
        int(key): {
            "answers": int(items.answers[row]),
            "votes": tuple(float(share) for share in items.votes[row] * items.answers[row]),
            "outcome": words[won[row]],
            "disagreement": float(disagreement[row]),
            "spread": float(spread[row]),
            "quality": tuple(float(mean) for mean in items.quality[row]),
            "is_identical": bool(items.identical[row]),
        }
        for row, key in enumerate(items.item)
    }


def _disagreement(ratings: Ratings) -> Any:
    """Return for each item the share of pairs of its raters who chose differently; same texts are one choice."""
    text = ratings.alike()[np.arange(len(ratings)), ratings.choice].argmax(axis=1)
    choice = np.where(ratings.choice == SAME, ratings.systems, text)
    _, member, answers = np.unique(ratings.item, return_inverse=True, return_counts=True)
    counts = np.zeros((len(answers), ratings.systems + 1))
    np.add.at(counts, (member, choice), 1)
    pairs = answers * (answers - 1)
    return np.where(pairs > 0, 1 - (counts * (counts - 1)).sum(axis=1) / np.maximum(pairs, 1), 0.0)


def _spread(ratings: Ratings) -> Any:
    _, member, answers = np.unique(ratings.item, return_inverse=True, return_counts=True)
    sums, squares = (np.zeros((len(answers), ratings.systems)) for _ in range(2))
    np.add.at(sums, member, ratings.quality)
    np.add.at(squares, member, ratings.quality**2)
    variance = squares / answers[:, None] - (sums / answers[:, None]) ** 2
    return np.sqrt(np.maximum(variance, 0)).mean(axis=1)


def _known(campaign: Campaign) -> dict[int, dict[str, Any]]:
    """Return for each qualification or check item how many answered it, and how many of them wrongly."""
    rows = Answer.objects.filter(campaign=campaign).exclude(item__kind=Item.Kind.MAIN)
    answered = rows.values_list("item", "choice", "item__expected_choice")
    found: dict[int, dict[str, Any]] = {}
    for item, choice, expected in answered:
        values = found.setdefault(item, {"answers": 0, "wrong": 0, "outcome": ""})
        values["answers"] += 1
        values["wrong"] += choice != expected
    return found


def shown_items(
    rows: Sequence[ItemRow], *, show: str, sort: str, matching: set[int] | None, winner: int | None = None
) -> list[ItemRow]:
    """Return the rows that a viewer asks for, in the order they ask for; `matching` are those whose prompt matches."""
    wanted = _FILTERS.get(show, _FILTERS[""])
    kept = [row for row in rows if wanted(row) and (matching is None or row.pk in matching)]
    if winner is not None:
        kept = [row for row in kept if row.outcome == winner]
    name = sort.removeprefix("-")
    if name not in SORTS:
        return sorted(kept, key=lambda row: (-row.disagreement, -row.spread, row.index))
    return sorted(kept, key=lambda row: (getattr(row, name), -row.index), reverse=sort.startswith("-"))


def _is_main(row: ItemRow) -> bool:
    return row.kind == Item.Kind.MAIN


_FILTERS: dict[str, Callable[[ItemRow], bool]] = {
    "": _is_main,
    "split": lambda row: _is_main(row) and row.disagreement > 0,
    "agreed": lambda row: _is_main(row) and row.answers > 1 and row.disagreement == 0,
    "no_majority": lambda row: row.outcome == NO_MAJORITY,
    "same": lambda row: row.outcome == SAME_WORD,
    "unrated": lambda row: _is_main(row) and row.answers == 0,
    "flagged": lambda row: row.open_flags > 0,
    "named": lambda row: row.is_named,
    "identical": lambda row: row.is_identical,
    "known": lambda row: not _is_main(row),
}


def matching_items(campaign: Campaign, words: str) -> set[int] | None:
    """Return the items in whose prompt or responses all of these words stand; None when there are none to look for."""
    if not words:
        return None
    rows = Item.objects.filter(campaign=campaign)
    for word in words.split():
        texts = Response.objects.filter(item=OuterRef("pk"), text__icontains=word)
        rows = rows.filter(Q(prompt__icontains=word) | Exists(texts))
    return set(rows.values_list("pk", flat=True))


@dataclass(frozen=True)
class ShownAnswer:
    """An answer with the systems in the order in which they were shown."""

    answer: Answer
    places: list[tuple[str, int]]  # label, quality, from left to right
    chosen: str
    is_right: bool | None  # of known items
    reason_not_counted: str


def shown_answers(item: Item, names: Mapping[int, str], reasons: Mapping[int, str]) -> list[ShownAnswer]:
    """Return every answer of an item, counted ones first; `names` are those of its responses."""
    rows = Answer.objects.filter(item=item).select_related("rater").annotate(changes=Count("versions"))
    order = {"counted": 0, "surplus": 1, "excluded": 2}
    return [
        _shown(answer, item, names, reasons)
        for answer in sorted(rows, key=lambda row: (order[row.standing], row.submitted))
    ]


def _shown(answer: Answer, item: Item, names: Mapping[int, str], reasons: Mapping[int, str]) -> ShownAnswer:
    indices = [int(index) for index in answer.order]
    places = [(names[index], getattr(answer, f"quality_{index}")) for index in indices]
    chosen = SAME_WORD if answer.choice is None else names[answer.choice]
    right = None if item.kind == Item.Kind.MAIN else answer.choice == item.expected_choice
    why = {"excluded": reasons.get(answer.rater_id, ""), "surplus": answer.surplus_reason}
    return ShownAnswer(answer, places, chosen, right, why.get(answer.standing, ""))


def response_names(item: Item, systems: Sequence[ShownSystem]) -> dict[int, str]:
    """Return what each response of an item is called: its system, in known items its number."""
    labels = {system.index: system.label for system in systems}
    main = item.kind == Item.Kind.MAIN
    return {index: labels.get(index, "") if main else f"response {index + 1}" for index in range(3)}


def open_flags(item: Item) -> list[Flag]:
    """Return the flags of an item, those to settle first."""
    return sorted(item.flags.select_related("rater"), key=lambda flag: (flag.settled is not None, flag.at))
