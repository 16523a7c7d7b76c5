"""Items whose answer is known: qualification items come first, check items among the others without being told apart."""

import hashlib
import math
from functools import lru_cache
from typing import Any
from uuid import uuid4

from django.db import connection
from django.db.models import F, Q

from webapp.human_eval.leases import ORDER_SQL
from webapp.human_eval.models import Answer, Campaign, Item, Participation, Rater, Skip

_MOST_CHECKS = 200  # of one rater, of which places are drawn

_HAND_OUT = f"""
INSERT INTO human_eval_slot
    (campaign_id, item_id, number, status, priority, rater_id, token, "order", ahead, claimed, shown, lease_expires, active_ms)
SELECT slot.campaign_id, slot.item_id, slot.number, 'leased', 0, %(rater)s, %(token)s::uuid, {ORDER_SQL}, %(ahead)s,
       statement_timestamp(), CASE WHEN %(ahead)s THEN NULL ELSE statement_timestamp() END,
       statement_timestamp() + %(lease)s * interval '1 second', 0
FROM (
    SELECT item.campaign_id, item.id AS item_id, %(rater)s::bigint AS number
    FROM human_eval_item AS item
    WHERE item.campaign_id = %(campaign)s AND item.kind = %(kind)s
      AND NOT EXISTS (SELECT FROM human_eval_slot AS mine WHERE mine.item_id = item.id AND mine.rater_id = %(rater)s)
      AND NOT EXISTS (SELECT FROM human_eval_answer AS given WHERE given.item_id = item.id AND given.rater_id = %(rater)s)
      AND NOT EXISTS (SELECT FROM human_eval_skip AS skip WHERE skip.item_id = item.id AND skip.rater_id = %(rater)s)
    ORDER BY CASE WHEN item.kind = 'check' THEN md5(item.id::text || ':' || %(rater)s) END, item.index
    LIMIT 1
) AS slot JOIN human_eval_item AS item ON item.id = slot.item_id
RETURNING id
"""  # noqa: S608 - made of this module's own words


@lru_cache(maxsize=512)
def check_positions(seed: int, campaign: int, rater: int, share: float) -> tuple[int, ...]:
    """Return which of a rater's tasks, counted from 0, are check items.

    Of each 1 / share tasks in a row exactly one is, at a place that is drawn by hashing: the share is reached and
    nobody can tell where the next one stands. The draw needs no memory, so two web processes agree.
    """
    if share <= 0:
        return ()

    def place(number: int) -> int:
        digest = hashlib.sha256(f"{seed}:{campaign}:{rater}:{number}".encode()).digest()
        return math.floor((number + int.from_bytes(digest[:6]) / 2**48) / share)

    return tuple(place(number) for number in range(_MOST_CHECKS))


def hand_out(campaign: Campaign, rater: Rater, kind: Item.Kind, *, ahead: bool) -> int | None:
    """Make and lease the slot of a known item that this rater has not had; return its key, None when there is none.

    The rater's participation must be locked.
    """
    values: dict[str, Any] = {
        "campaign": campaign.pk,
        "rater": rater.pk,
        "kind": str(kind),
        "token": str(uuid4()),
        "lease": campaign.lease_seconds,
        "ahead": ahead,
    }
    with connection.cursor() as cursor:
        cursor.execute(_HAND_OUT, values)
        row = cursor.fetchone()
    return None if row is None else int(row[0])


def settle_qualification(part: Participation) -> None:
    """Let a rater pass or fail who is through with the qualification items. The participation must be locked."""
    if part.qualification != Participation.Qualification.PENDING:
        return
    items = Item.objects.filter(campaign=part.campaign, kind=Item.Kind.QUALIFICATION)
    answers = Answer.objects.filter(rater=part.rater, item__in=items)
    skips = Skip.objects.filter(rater=part.rater, item__in=items).exclude(item__in=answers.values("item"))
    if answers.count() + skips.count() < items.count():
        return
    passed = answers.filter(is_right()).count() >= part.campaign.qualification_pass
    part.qualification = Participation.Qualification.PASSED if passed else Participation.Qualification.FAILED
    part.save(update_fields=["qualification"])


def is_right() -> Q:
    """Return the condition that an answer to a known item is the expected one."""
    return Q(same=True, item__expected_same=True) | Q(same=False, choice=F("item__expected_choice"))
