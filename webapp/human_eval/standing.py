"""What a rater has done and what is left, so that an end page says which end it is."""

from dataclasses import dataclass
from typing import Any

from django.db import connection

from webapp.human_eval.claim_sql import HAD, NOT_MINE, next_sql
from webapp.human_eval.known_items import check_positions
from webapp.human_eval.leases import not_joined
from webapp.human_eval.models import Campaign, Rater

# ruff: noqa: S608 - made of this package's own words

_LEFT = f"""
SELECT (
    SELECT count(*) FROM human_eval_slot WHERE campaign_id = %(campaign)s AND rater_id = %(rater)s AND status = 'leased'
), count(DISTINCT slot.item_id) FILTER (WHERE NOT waits),
count(DISTINCT slot.item_id) - count(DISTINCT slot.item_id) FILTER (WHERE NOT waits)
FROM (
    SELECT item_id, status = 'leased' AND lease_expires >= statement_timestamp() AS waits
    FROM human_eval_slot WHERE campaign_id = %(campaign)s AND status IN ('open', 'leased')
) AS slot JOIN human_eval_item AS item ON item.id = slot.item_id AND item.kind = 'main'
WHERE {NOT_MINE}
"""
_KNOWN_LEFT = f"""
SELECT count(*) FROM human_eval_item AS item, LATERAL (SELECT item.id AS item_id) AS slot
WHERE item.campaign_id = %(campaign)s AND item.kind = %(kind)s AND {NOT_MINE}
"""


@dataclass(frozen=True)
class Standing:
    """Where a rater stands in a campaign. Check items are among the tasks, so that nothing here gives them away.

    `end` is empty while `claim` would return a task; else it says why not: all_done, others_working,
    maximum, excluded, not_open, failed_qualification.
    """

    done: int  # answers, whether or not they count; qualification aside
    left_for_me: int  # tasks this rater can have now, those in hand included
    leased_by_others: int  # tasks that may come back to this rater
    maximum: int | None
    end: str


def standing(campaign: Campaign, rater: Rater) -> Standing:
    """Return where a rater stands. Raises UserError when they have not joined the campaign."""
    values = {"campaign": campaign.pk, "rater": rater.pk, "maximum": campaign.max_items_per_rater}
    places = check_positions(campaign.seed, campaign.pk, rater.pk, campaign.check_share)
    row = _row(next_sql(counts=True), values | {"places": list(places)})
    if row is None:
        raise not_joined(rater)
    taken, position, checks, state = row
    held, free, waiting = _row(_LEFT, values) or (0, 0, 0)
    if state == "qualification" and (tests := held + _known_left(values, "qualification")):
        return Standing(taken, tests, 0, campaign.max_items_per_rater, "")
    if places:
        free = _with_checks(free, _known_left(values, "check"), position, checks, places)
    if campaign.max_items_per_rater is not None:
        room = max(0, campaign.max_items_per_rater - taken)
        free, waiting = min(free, room), min(waiting, max(0, room - free))
    left = held + free
    return Standing(taken - held, left, waiting, campaign.max_items_per_rater, _end(state, left, waiting))


def has_had_enough(campaign: Campaign, rater: Rater) -> bool:
    """Return whether a rater has answered or holds as many tasks as they may."""
    if campaign.max_items_per_rater is None:
        return False
    taken = _row(HAD, {"campaign": campaign.pk, "rater": rater.pk}) or (0,)
    return bool(taken[0] >= campaign.max_items_per_rater)


def _end(state: str, left: int, waiting: int) -> str:
    if state in {"not_open", "excluded", "failed_qualification"}:
        return state
    if left:
        return ""
    if state == "maximum":
        return state
    return "others_working" if waiting else "all_done"


def _known_left(values: dict[str, Any], kind: str) -> int:
    return int((_row(_KNOWN_LEFT, values | {"kind": kind}) or (0,))[0])


def _with_checks(free: int, known: int, position: int, checks: int, places: tuple[int, ...]) -> int:
    """Return how many tasks a rater can have: `free` main ones with the check items that come among them or next."""
    for number, place in enumerate(places):
        if place > position + free or not known:
            break
        first = number == 0 or places[number - 1] < place
        if place >= position and first and checks <= number:
            free, known, checks = free + 1, known - 1, checks + 1
    return free


def _row(statement: str, values: dict[str, Any]) -> tuple[Any, ...] | None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        row: tuple[Any, ...] | None = cursor.fetchone()
    return row
