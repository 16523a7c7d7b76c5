"""Who rates what next: claims under a lease, prefetching, heartbeats, skips.

A claim is one statement that picks a slot, one row per wanted replica, by FOR UPDATE SKIP LOCKED and takes it; no count
decides who gets it, so items are never handed out once too often, whoever comes at the same time. Before it, in the
same round trip, the rater's participation is locked: two tabs of one rater get the same task, and the maximum is exact.

A lease that has run out may be taken by others, after all open slots, and may still be used by its holder while
nobody has taken it. Reload, the back button and a second tab show the task one holds; nobody holds more than two.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.db import IntegrityError, connection, transaction

from rso_core.errors import UserError
from webapp.human_eval.answers import Outcome, Verdict, change, flag, submit
from webapp.human_eval.claim_sql import run_claim, slot_of
from webapp.human_eval.known_items import check_positions, hand_out, settle_qualification
from webapp.human_eval.leases import end_leases, lock_participation, locked_lease, not_joined
from webapp.human_eval.models import Answer, Campaign, EndedLease, Item, Rater, Skip, Slot
from webapp.human_eval.rater_text import bounded_text, cleaned_draft
from webapp.human_eval.standing import Standing, standing

__all__ = [
    "Outcome",
    "Standing",
    "Verdict",
    "change",
    "claim",
    "claim_ahead",
    "flag",
    "heartbeat",
    "skip",
    "standing",
    "submit",
]

_TRIES = 5
_LONGEST_BEAT_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class _Offer:
    """What a try to claim found: what is next for the rater, and the slot that is now theirs."""

    next: str
    slot: Slot | None


def claim(campaign: Campaign, rater: Rater) -> Slot | None:
    """Return the task this rater works on: the one they hold, else a new one; None when there is none for now.

    `standing` says why there is none. Raises UserError when the rater has not joined the campaign.
    """
    return _claim(campaign, rater, after=None)


def claim_ahead(campaign: Campaign, rater: Rater, *, after: Slot) -> Slot | None:
    """Return the task after the one in hand, under a lease of its own; asked again, the same one."""
    return _claim(campaign, rater, after=after)


def _claim(campaign: Campaign, rater: Rater, *, after: Slot | None) -> Slot | None:
    for tries_left in reversed(range(_TRIES)):
        try:
            offer = _take(campaign, rater, after=after)
            if offer.slot is None and offer.next in {"qualification", "check"}:
                return _claim_known(campaign, rater, after=after)
        except IntegrityError:
            # A slot or an answer of this rater on the item that was picked appeared in between. Nothing that holds
            # the participation does that; the constraint is the last word all the same.
            if not tries_left:
                raise
        else:
            return offer.slot
    return None


def _take(campaign: Campaign, rater: Rater, *, after: Slot | None, checks: bool = True) -> _Offer:
    """Take the slot in one round trip. Raises UserError when the rater has not joined."""
    checking = checks and campaign.check_share > 0
    places = check_positions(campaign.seed, campaign.pk, rater.pk, campaign.check_share) if checking else ()
    values: dict[str, Any] = {
        "campaign": campaign.pk,
        "rater": rater.pk,
        "after": after.pk if after else 0,
        "ahead": after is not None,
        "token": str(uuid4()),
        "lease": campaign.lease_seconds,
        "maximum": campaign.max_items_per_rater,
        "places": list(places),
    }
    counts = checking or campaign.max_items_per_rater is not None
    with _savepoint(), connection.cursor() as cursor:
        row = run_claim(cursor, values, counts=counts)
    if row is None:
        raise not_joined(rater)
    return _Offer(row[0], slot_of(row[1:], campaign, rater))


def _savepoint() -> AbstractContextManager[None]:
    """Inside a transaction a broken constraint must not end it; outside, the statement is its own transaction."""
    return transaction.atomic() if connection.in_atomic_block else nullcontext()


def _claim_known(campaign: Campaign, rater: Rater, *, after: Slot | None) -> Slot | None:
    """Claim where a qualification or check item is due. Looked at again under the lock, which is now kept."""
    with transaction.atomic():
        part = lock_participation(campaign, rater)
        offer = _take(campaign, rater, after=after)
        if offer.slot is None and offer.next == "qualification":
            made = hand_out(campaign, rater, Item.Kind.QUALIFICATION, ahead=after is not None)
            if made is not None:
                return Slot.objects.get(pk=made)
            settle_qualification(part)
            offer = _take(campaign, rater, after=after)
        if offer.slot is None and offer.next == "check":
            made = hand_out(campaign, rater, Item.Kind.CHECK, ahead=after is not None)
            return Slot.objects.get(pk=made) if made else _take(campaign, rater, after=after, checks=False).slot
        return offer.slot


_BEAT = """
WITH mine AS MATERIALIZED (
    SELECT id, token = %(token)s::uuid AS beats FROM human_eval_slot
    WHERE rater_id = %(rater)s AND status = 'leased'
      AND campaign_id = (SELECT campaign_id FROM human_eval_slot WHERE token = %(token)s::uuid AND rater_id = %(rater)s)
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE human_eval_slot AS slot
SET lease_expires = CASE WHEN %(busy)s
        THEN greatest(slot.lease_expires, statement_timestamp() + campaign.lease_seconds * interval '1 second')
        ELSE slot.lease_expires END,
    shown = CASE WHEN mine.beats
        THEN coalesce(slot.shown, greatest(slot.claimed, statement_timestamp() - %(active)s * interval '1 ms'))
        ELSE slot.shown END,
    active_ms = CASE WHEN mine.beats
        THEN least(slot.active_ms + %(active)s,
                   1000 * extract(epoch FROM statement_timestamp() - coalesce(slot.shown, slot.claimed))::bigint)
        ELSE slot.active_ms END,
    ahead = slot.ahead AND NOT mine.beats,
    draft = CASE WHEN mine.beats THEN coalesce(%(draft)s::jsonb, slot.draft) ELSE slot.draft END
FROM mine, human_eval_campaign AS campaign
WHERE slot.id = mine.id AND campaign.id = slot.campaign_id
  AND EXISTS (SELECT FROM mine AS beating WHERE beating.beats)
RETURNING slot.id
"""


def heartbeat(token: UUID, *, rater: Rater, active_ms: int, draft: Mapping[str, Any] | None = None) -> bool:
    """Note that a rater is at work; return whether they still hold the lease.

    `active_ms` is the time of work since the last beat; what is kept never exceeds the time that has passed. Work or a
    draft extends the lease, and that of the prefetched task with it; a page that is merely open does not.
    """
    active = min(max(int(active_ms), 0), _LONGEST_BEAT_MS)
    kept = None if draft is None else cleaned_draft(draft)
    values: dict[str, Any] = {
        "token": str(token),
        "rater": rater.pk,
        "active": active,
        "draft": kept,
        "busy": active > 0 or kept is not None,
    }
    with connection.cursor() as cursor:
        cursor.execute(_BEAT, values)
        return bool(cursor.rowcount > 0)


def skip(token: UUID, *, rater: Rater, reason: str, note: str = "") -> None:
    """Give a task back that this rater would rather not do; they never get it again, somebody else does.

    Said twice, it is done once. Raises UserError for an unknown reason, and when the rater has answered already.
    """
    if reason not in Skip.Reason.values:
        message = (
            f"the reason to skip must be one of {', '.join(Skip.Reason.values)}, got {reason!r}; choose one of the list"
        )
        raise UserError(message)
    with transaction.atomic():
        part, lease = locked_lease(token, rater)
        if Answer.objects.filter(item_id=lease.item_id, rater=rater).exists():
            message = "you have answered this task already, so it cannot be skipped; change your answer instead"
            raise UserError(message)
        Skip.objects.get_or_create(
            item_id=lease.item_id, rater=rater, defaults={"reason": reason, "note": bounded_text(note, "note")}
        )
        if isinstance(lease, Slot):
            end_leases([lease], EndedLease.Why.SKIPPED)
        if lease.item.kind == Item.Kind.QUALIFICATION:
            settle_qualification(part)
