"""What a rater has done and what is left, so that an end page says which end it is."""

from dataclasses import dataclass
from typing import Any

from webapp.human_eval.claim_sql import HAD, NOT_MINE, next_sql
from webapp.human_eval.known_items import check_positions
from webapp.human_eval.leases import not_joined
from webapp.human_eval.models import Campaign, Rater
from webapp.human_eval.rows import first_row

# ruff: noqa: S608 - made of this package's own words

# Open slots are those of main items: those of known ones are made as leases and never opened.
_STANDING = f"""
SELECT me.taken, me.position, me.checks, me.next, (
    SELECT count(*) FROM human_eval_slot WHERE campaign_id = %(campaign)s AND rater_id = %(rater)s AND status = 'leased'
) AS held, left_over.free, left_over.waiting
FROM ({next_sql(counts=True)}) AS me, (SELECT count(*) FILTER (WHERE NOT waits) AS free, count(*) FILTER (WHERE waits) AS waiting
FROM (
    SELECT item_id, bool_and(waits) AS waits FROM (
        SELECT item_id, false AS waits FROM human_eval_slot WHERE campaign_id = %(campaign)s AND status = 'open'
        UNION ALL
        SELECT item_id, lease_expires >= statement_timestamp() FROM human_eval_slot AS slot
        WHERE campaign_id = %(campaign)s AND status = 'leased'
          AND (SELECT kind FROM human_eval_item AS item WHERE item.id = slot.item_id) = 'main'
    ) AS slot GROUP BY item_id
) AS item
WHERE item_id NOT IN (
    SELECT item_id FROM human_eval_slot WHERE campaign_id = %(campaign)s AND rater_id = %(rater)s
    UNION ALL SELECT item_id FROM human_eval_answer WHERE campaign_id = %(campaign)s AND rater_id = %(rater)s
    UNION ALL SELECT item_id FROM human_eval_skip WHERE rater_id = %(rater)s
)) AS left_over
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
    row = first_row(_STANDING, values | {"places": list(places)})
    if row is None:
        raise not_joined(rater)
    taken, position, checks, state, held, free, waiting = row
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
    taken = first_row(HAD, {"campaign": campaign.pk, "rater": rater.pk}) or (0,)
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
    return int((first_row(_KNOWN_LEFT, values | {"kind": kind}) or (0,))[0])


def _with_checks(free: int, known: int, position: int, checks: int, places: tuple[int, ...]) -> int:
    """Return how many tasks a rater can have: `free` main ones with the check items that come among them or next."""
    for number, place in enumerate(places):
        if place > position + free or not known:
            break
        first = number == 0 or places[number - 1] < place
        if place >= position and first and checks <= number:
            free, known, checks = free + 1, known - 1, checks + 1
    return free
