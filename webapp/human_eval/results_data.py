"""What the results of a campaign are computed from: narrow columns, read in two queries, and the state they are in."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from django.db import connection

from rso_core.ratings import SAME, Ratings
from webapp.human_eval.models import Campaign

_VERSION = 1  # of what is computed: a new one makes snapshots of older code useless

# A browser without scripts measures no active time: there the time from showing to answer stands for it.
_COUNTED = """
SELECT answer.item_id, answer.rater_id, item.root, answer.choice, answer."order",
       coalesce(nullif(answer.active_ms, 0), answer.elapsed_ms),
       answer.quality_0, answer.quality_1, answer.quality_2
FROM human_eval_answer AS answer JOIN human_eval_item AS item ON item.id = answer.item_id
WHERE answer.campaign_id = %s AND answer.standing = 'counted' AND item.kind = 'main'
ORDER BY answer.item_id, answer.rater_id
"""
_CHECKS = """
SELECT answer.rater_id, count(*),
       count(*) FILTER (WHERE answer.choice IS DISTINCT FROM item.expected_choice)
FROM human_eval_answer AS answer JOIN human_eval_item AS item ON item.id = answer.item_id
WHERE answer.campaign_id = %s AND item.kind = 'check'
GROUP BY answer.rater_id
"""
# `twin`: the lowest index among the responses of an item that have the same text.
_RESPONSES = r"""
SELECT response.item_id, array_agg(response.twin ORDER BY response.index),
       array_agg(response.characters ORDER BY response.index)
FROM (
    SELECT item_id, index, char_length(btrim(text, E' \t\r\n')) AS characters,
           min(index) OVER (PARTITION BY item_id, md5(btrim(text, E' \t\r\n'))) AS twin
    FROM human_eval_response
    WHERE item_id IN (SELECT id FROM human_eval_item WHERE campaign_id = %s AND kind = 'main')
) AS response
GROUP BY response.item_id
"""
_STATE = """
SELECT (SELECT string_agg(concat_ws(' ', standing, answers, latest), ',' ORDER BY standing)
        FROM (SELECT standing, count(*) AS answers, max(changed) AS latest FROM human_eval_answer
              WHERE campaign_id = %(campaign)s GROUP BY standing) AS answer),
       (SELECT concat_ws(' ', count(*), max(at), max(lifted)) FROM human_eval_exclusion WHERE campaign_id = %(campaign)s),
       (SELECT concat_ws(' ', count(*), count(expected_choice)) FROM human_eval_item WHERE campaign_id = %(campaign)s)
"""


def state_of(campaign: Campaign) -> str:
    """Return a digest of everything that the figures depend on: it changes when an answer or an exclusion does."""
    with connection.cursor() as cursor:
        cursor.execute(_STATE, {"campaign": campaign.pk})
        row = cursor.fetchone()
    settings = (_VERSION, campaign.seed, campaign.scale_min, campaign.scale_max, campaign.way)
    return hashlib.sha256(repr((settings, row)).encode()).hexdigest()[:40]


def read_ratings(campaign: Campaign) -> Ratings:
    """Return the counted answers of the main items, with the lengths and the identical texts of their responses."""
    rows = _fetched(_COUNTED, campaign)
    responses = {item: (twins, lengths) for item, twins, lengths in _fetched(_RESPONSES, campaign)}
    item, rater, roots, choice, order, active, *quality = zip(*rows, strict=True) if rows else [()] * 9
    shape = (len(rows), campaign.way)
    return Ratings(
        item=np.array(item, dtype=np.int64),
        rater=np.array(rater, dtype=np.int64),
        item_root=_numbered(roots, item),
        quality=np.array(quality[: campaign.way], dtype=np.float64).T.reshape(shape),
        choice=np.array([SAME if index is None else index for index in choice], dtype=np.int64),
        order=np.array([[int(index) for index in shown] for shown in order], dtype=np.int64).reshape(shape),
        length=np.array([responses[key][1] for key in item], dtype=np.float64).reshape(shape),
        twins=np.array([responses[key][0] for key in item], dtype=np.int64).reshape(shape),
        active_seconds=np.array(active, dtype=np.float64) / 1000 if any(active) else None,
        scale=(campaign.scale_min, campaign.scale_max),
    )


def read_checks(campaign: Campaign) -> dict[int, tuple[int, int]]:
    """Return for each rater how many check items were answered, and how many of them wrongly."""
    return {rater: (answered, wrong) for rater, answered, wrong in _fetched(_CHECKS, campaign)}


def _fetched(query: str, campaign: Campaign) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, [campaign.pk])
        return list(cursor.fetchall())


def _numbered(roots: Sequence[str], items: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return a number for each conversation root; a prompt without one is a conversation of its own."""
    names = [(root, 0) if root else ("", item) for root, item in zip(roots, items, strict=True)]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], dtype=np.int64)
