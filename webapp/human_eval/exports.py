"""Answers as rows for other programs: one row an answer, the same columns in CSV and JSON lines.

Columns, in this order and never renamed:

    campaign, item, item_kind, prompt_id, root       what was rated: the item's number from 1, as on its page; `root` is the cluster
    rater                                            the pseudonym, the same in every export and campaign
    standing, reason_not_counted                     counted, excluded (why its rater was) or surplus (why it is)
    order, shown_1 … shown_3                         response indices from left to right, and the systems that stood there
    system_0 … system_2                              the system of each response index (empty in known items)
    quality_0 … quality_2                            by response index, never by place
    choice, chosen_system, chosen_place, same        response index, its system, its place from 1; empty where "same"
    contradicts, reason                              kept though another scored higher; the rater's own words
    active_ms, elapsed_ms, submitted, changed        visible and not idle; from first showing to answer; ISO 8601
    versions                                         how often the rater changed the answer
    expected, right                                  of qualification and check items: the expected choice, whether it was given
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from django.db.models import Count

from webapp.human_eval.models import Answer, Campaign, Exclusion, Item

COLUMNS = (
    "campaign", "item", "item_kind", "prompt_id", "root", "rater", "standing", "reason_not_counted", "order",
    "shown_1", "shown_2", "shown_3", "system_0", "system_1", "system_2", "quality_0", "quality_1", "quality_2",
    "choice", "chosen_system", "chosen_place", "same", "contradicts", "reason", "active_ms", "elapsed_ms",
    "submitted", "changed", "versions", "expected", "right",
)  # fmt: skip
SAME = "same"
_STORED = (
    "item__index", "item__kind", "item__prompt_id", "item__root", "item__expected_choice", "item__expected_same",
    "rater", "rater__pseudonym", "standing", "surplus_reason", "order", "quality_0", "quality_1", "quality_2", "choice",
    "same", "contradicts", "reason", "active_ms", "elapsed_ms", "submitted", "changed", "changes",
)  # fmt: skip


def answer_rows(campaign: Campaign) -> Iterator[dict[str, Any]]:
    """Yield every answer of a campaign under `COLUMNS`: counted, excluded and surplus, known items too."""
    labels = dict(campaign.systems.values_list("index", "label"))
    excluded = Exclusion.objects.filter(campaign=campaign, lifted__isnull=True)
    reasons = dict(excluded.values_list("rater", "reason"))
    for row in _stored(campaign).iterator(chunk_size=2000):
        yield _as_row(campaign, row, labels if row["item__kind"] == Item.Kind.MAIN else {}, reasons)


def _stored(campaign: Campaign) -> Any:
    rows = Answer.objects.filter(campaign=campaign).annotate(changes=Count("versions"))
    return rows.order_by("item__index", "submitted", "pk").values(*_STORED)


def _as_row(
    campaign: Campaign, row: Mapping[str, Any], labels: Mapping[int, str], reasons: Mapping[int, str]
) -> dict[str, Any]:
    order = [int(index) for index in row["order"]]
    choice, expected = row["choice"], _expected(row)
    given = SAME if row["same"] else choice
    why = {"excluded": reasons.get(row["rater"], ""), "surplus": row["surplus_reason"]}
    values = {
        "campaign": campaign.name, "item": row["item__index"] + 1, "item_kind": row["item__kind"],
        "prompt_id": row["item__prompt_id"], "root": row["item__root"], "rater": row["rater__pseudonym"],
        "standing": row["standing"], "reason_not_counted": why.get(row["standing"], ""), "order": row["order"],
        "choice": choice, "chosen_system": labels.get(choice), "same": row["same"], "contradicts": row["contradicts"],
        "chosen_place": None if choice is None else order.index(choice) + 1, "reason": row["reason"],
        "active_ms": row["active_ms"], "elapsed_ms": row["elapsed_ms"], "submitted": row["submitted"].isoformat(),
        "changed": row["changed"].isoformat(), "versions": row["changes"], "expected": expected,
        "right": None if expected is None else given == expected,
    }  # fmt: skip
    for place in range(3):
        shown = order[place] if place < len(order) else None
        values[f"shown_{place + 1}"] = labels.get(shown) if shown is not None else None
        values[f"system_{place}"] = labels.get(place)
        values[f"quality_{place}"] = row[f"quality_{place}"]
    return {name: values[name] for name in COLUMNS}


def _expected(row: Mapping[str, Any]) -> int | str | None:
    return SAME if row["item__expected_same"] else row["item__expected_choice"]


def json_lines(rows: Iterator[Mapping[str, Any]]) -> Iterator[str]:
    """Yield rows as JSON lines."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def item_lines(campaign: Campaign) -> Iterator[str]:
    """Yield every item as a JSON line: its prompt, and its responses with their systems by response index."""
    items = Item.objects.filter(campaign=campaign).prefetch_related("responses__system").order_by("index")
    return json_lines(_item_row(item) for item in items.iterator(chunk_size=500))


def _item_row(item: Item) -> dict[str, Any]:
    responses = [
        {
            "index": response.index, "system": response.system.label if response.system else None, "text": response.text,
            "truncated": response.truncated, "named": response.named,
        }
        for response in item.responses.all()
    ]  # fmt: skip
    return {
        "item": item.number, "item_kind": item.kind, "prompt_id": item.prompt_id, "root": item.root, "prompt": item.prompt,
        "messages": item.messages, "responses": responses,
    }  # fmt: skip
