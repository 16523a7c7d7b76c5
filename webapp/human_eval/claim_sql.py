"""The SQL of a claim, and of the question what a rater may get next."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from django.db.backends.utils import CursorWrapper

from webapp.human_eval.leases import ORDER_SQL
from webapp.human_eval.models import Campaign, Rater, Slot

# ruff: noqa: S608 - everything here is made of this module's own words; values are parameters
SLOT_FIELDS = tuple(field.attname for field in Slot._meta.concrete_fields)  # noqa: SLF001 - Django's public API

# Two tabs of a rater act one after the other. The next statement starts after the lock is held, so it sees what the
# one before did.
LOCK = """
SELECT FROM human_eval_participation WHERE campaign_id = %(campaign)s AND rater_id = %(rater)s FOR NO KEY UPDATE
"""

# What a rater has had of a campaign, qualification aside. An item's kind is looked up row by row: a join would let the
# planner begin with all items of the campaign, as it does while it knows nothing yet of one that was just opened.
HAD = """
SELECT count(*) FILTER (WHERE had.what <> 'skip') AS taken, count(*) AS position,
       count(*) FILTER (WHERE had.kind = 'check') AS checks
FROM (
    SELECT 'answer' AS what, (SELECT kind FROM human_eval_item AS item WHERE item.id = given.item_id) AS kind
    FROM human_eval_answer AS given WHERE campaign_id = %(campaign)s AND rater_id = %(rater)s
    UNION ALL
    SELECT 'lease', (SELECT kind FROM human_eval_item AS item WHERE item.id = slot.item_id)
    FROM human_eval_slot AS slot
    WHERE campaign_id = %(campaign)s AND rater_id = %(rater)s AND status = 'leased'
    UNION ALL
    SELECT 'skip', (
        SELECT kind FROM human_eval_item AS item WHERE item.id = skip.item_id AND item.campaign_id = %(campaign)s
    ) FROM human_eval_skip AS skip WHERE rater_id = %(rater)s
) AS had WHERE had.kind <> 'qualification'
"""
_HAD_NOTHING = "SELECT 0::bigint AS taken, 0::bigint AS position, 0::bigint AS checks"

_NEXT = """
SELECT had.taken, had.position, had.checks, CASE
    WHEN campaign.status <> 'open' THEN 'not_open'
    WHEN EXISTS (
        SELECT FROM human_eval_exclusion AS exclusion
        WHERE exclusion.campaign_id = %(campaign)s AND exclusion.rater_id = %(rater)s AND exclusion.lifted IS NULL
    ) THEN 'excluded'
    WHEN part.qualification = 'failed' THEN 'failed_qualification'
    WHEN part.qualification = 'pending' THEN 'qualification'
    WHEN had.taken >= %(maximum)s THEN 'maximum'
    WHEN had.checks < array_position(%(places)s::bigint[], had.position) THEN 'check'
    ELSE 'main' END AS next
FROM human_eval_campaign AS campaign
JOIN human_eval_participation AS part ON part.campaign_id = campaign.id AND part.rater_id = %(rater)s,
     ({had}) AS had
WHERE campaign.id = %(campaign)s
"""

# Items with a slot, an answer or a skip of mine are not for me.
NOT_MINE = """
NOT EXISTS (SELECT FROM human_eval_slot AS mine WHERE mine.item_id = slot.item_id AND mine.rater_id = %(rater)s)
AND NOT EXISTS (SELECT FROM human_eval_answer AS given WHERE given.item_id = slot.item_id AND given.rater_id = %(rater)s)
AND NOT EXISTS (SELECT FROM human_eval_skip AS skip WHERE skip.item_id = slot.item_id AND skip.rater_id = %(rater)s)
"""

# `held`: the lease I have, whether or not it has run out. `fresh`: an open slot; locked ones are somebody else's in a
# moment. `expired`: one whose lease has run out. Conditions on the locked row are checked again once it is locked.
# While there are open slots nobody gets an expired one, so a claim asks for one only when there was no other: what a
# statement might have done costs as much as what it does.
_CLAIM = f"""
WITH me AS MATERIALIZED ({_NEXT}),
held AS MATERIALIZED (
    SELECT slot.* FROM human_eval_slot AS slot
    WHERE slot.campaign_id = %(campaign)s AND slot.rater_id = %(rater)s AND slot.status = 'leased'
      AND slot.id <> %(after)s AND (SELECT next NOT IN ('not_open', 'excluded', 'failed_qualification') FROM me)
    ORDER BY slot.ahead, slot.claimed, slot.id LIMIT 1
    FOR NO KEY UPDATE OF slot
),
fresh AS MATERIALIZED (
    SELECT slot.* FROM human_eval_slot AS slot
    WHERE slot.campaign_id = %(campaign)s AND slot.status = 'open'
      AND (SELECT next = 'main' FROM me) AND NOT EXISTS (SELECT FROM held) AND {NOT_MINE}
    ORDER BY slot.priority, slot.id LIMIT 1
    FOR NO KEY UPDATE OF slot SKIP LOCKED
),
{{expired}}
picked AS (
    SELECT id, token, "order", ahead AND %(ahead)s AS ahead, claimed, shown, active_ms, draft FROM held
    UNION ALL
    SELECT slot.id, %(token)s::uuid, {ORDER_SQL}, %(ahead)s, statement_timestamp(), NULL, 0, NULL
    FROM ({{found}}) AS slot
    JOIN human_eval_item AS item ON item.id = slot.item_id
),
claimed AS (
    UPDATE human_eval_slot AS slot
    SET status = 'leased', rater_id = %(rater)s, token = picked.token, "order" = picked."order", ahead = picked.ahead,
        claimed = picked.claimed, active_ms = picked.active_ms, draft = picked.draft,
        shown = CASE WHEN picked.ahead THEN picked.shown ELSE coalesce(picked.shown, statement_timestamp()) END,
        lease_expires = statement_timestamp() + %(lease)s * interval '1 second'
    FROM picked WHERE slot.id = picked.id
    RETURNING slot.*
)
SELECT me.next, {", ".join(f'claimed."{name}"' for name in SLOT_FIELDS)} FROM me LEFT JOIN claimed ON true
"""
_EXPIRED = f"""
expired AS MATERIALIZED (
    SELECT slot.* FROM human_eval_slot AS slot
    WHERE slot.campaign_id = %(campaign)s AND slot.status = 'leased' AND slot.lease_expires < statement_timestamp()
      AND (SELECT next = 'main' FROM me) AND NOT EXISTS (SELECT FROM held) AND NOT EXISTS (SELECT FROM fresh)
      AND EXISTS (SELECT FROM human_eval_item AS item WHERE item.id = slot.item_id AND item.kind = 'main') AND {NOT_MINE}
    ORDER BY slot.priority, slot.id LIMIT 1
    FOR NO KEY UPDATE OF slot SKIP LOCKED
),
ended AS (
    INSERT INTO human_eval_endedlease (token, item_id, slot_id, rater_id, "order", claimed, shown, active_ms, draft, why)
    SELECT token, item_id, id, rater_id, "order", claimed, shown, active_ms, draft, 'taken' FROM expired
),
"""


def next_sql(*, counts: bool) -> str:
    """Return the SELECT of what a rater may get next. Without `counts` (nothing depends on them) it costs less."""
    return _NEXT.format(had=HAD if counts else _HAD_NOTHING)


# Planning the claim takes four times as long as running it, so each connection prepares it once, and is told to plan it once:
# PostgreSQL would plan the first five executions anew. Nothing else in the product is prepared by the server.
_TYPES = {
    "campaign": "bigint",
    "rater": "bigint",
    "after": "bigint",
    "ahead": "boolean",
    "token": "uuid",
    "lease": "integer",
    "maximum": "integer",
    "places": "bigint[]",
}
_LOCK_TYPES = {"campaign": "bigint", "rater": "bigint"}
_prepared: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def run_claim(cursor: CursorWrapper, values: Mapping[str, Any], *, counts: bool) -> tuple[Any, ...] | None:
    """Lock the participation and claim, in one round trip; return what is next for the rater and the slot's columns.

    None when the rater has no participation.
    """
    row: tuple[Any, ...] | None = None
    for expired in (False, True):
        name = prepare(cursor, counts=counts, expired=expired)
        cursor.execute(_execution(name), dict(values))
        row = cursor.fetchone()
        if row is None or row[0] != "main" or row[1] is not None:
            break
    return row


@cache
def _execution(name: str) -> str:
    arguments = ", ".join(f"%({argument})s::{kind}" for argument, kind in _TYPES.items())
    return f"EXECUTE rso_lock(%(campaign)s, %(rater)s); EXECUTE {name}({arguments})"


def prepare(cursor: CursorWrapper, *, counts: bool, expired: bool) -> str:
    """Prepare the claim on the cursor's connection unless it is; return its name there."""
    name = f"rso_claim_{'with' if counts else 'without'}_counts{'_expired' if expired else ''}"
    known = _prepared.setdefault(cursor.connection, set())
    if not known:
        cursor.execute(f"SET plan_cache_mode = force_generic_plan; {_preparation('rso_lock', LOCK, _LOCK_TYPES)}")
        known.add("rso_lock")
    if name not in known:
        statement = _CLAIM.format(
            had=HAD if counts else _HAD_NOTHING,
            expired=_EXPIRED if expired else "",
            found="SELECT * FROM fresh UNION ALL SELECT * FROM expired" if expired else "SELECT * FROM fresh",
        )
        cursor.execute(_preparation(name, statement, _TYPES))
        known.add(name)
    return name


def _preparation(name: str, statement: str, types: Mapping[str, str]) -> str:
    for number, argument in enumerate(types, start=1):
        statement = statement.replace(f"%({argument})s", f"${number}")
    return f"PREPARE {name} ({', '.join(types.values())}) AS {statement}"


def slot_of(row: Sequence[Any], campaign: Campaign, rater: Rater) -> Slot | None:
    """Return the slot that a claim returned as values of SLOT_FIELDS; None when it found none."""
    values = dict(zip(SLOT_FIELDS, row, strict=True))
    if values["id"] is None:
        return None
    if values["draft"] is not None:
        values["draft"] = json.loads(values["draft"])
    slot = Slot.from_db("default", SLOT_FIELDS, list(values.values()))
    slot.campaign, slot.rater = campaign, rater
    return slot
