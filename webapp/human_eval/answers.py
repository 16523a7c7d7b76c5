"""What raters say of items: given once, changed with history, flagged; late work is kept as surplus, never lost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q, TextChoices
from django.db.models.functions import Now

from rso_core.errors import UserError
from webapp.human_eval.known_items import settle_qualification
from webapp.human_eval.leases import LOST, end_leases, is_main, lock_participation, lock_slots, locked_lease, seat
from webapp.human_eval.models import (
    Answer,
    AnswerVersion,
    Campaign,
    EndedLease,
    Exclusion,
    Flag,
    Item,
    Participation,
    Rater,
    Skip,
    Slot,
)
from webapp.human_eval.rater_text import bounded_text
from webapp.human_eval.rows import first_row, insert
from webapp.human_eval.standing import has_had_enough

_Standing = Answer.Standing
_CLOSED = "the campaign was closed before it arrived"
_LATE = {
    EndedLease.Why.TAKEN: "its time had run out, and somebody else had taken the task",
    EndedLease.Why.SKIPPED: "the rater had skipped the task, and somebody else had taken it",
    EndedLease.Why.EXCLUDED: "its slot went to somebody else while the rater was excluded",
    EndedLease.Why.CLOSED: _CLOSED,
}
_OVER_MAXIMUM = "its time had run out, and the rater had rated all they may by then"


@dataclass(frozen=True)
class Verdict:
    """What a rater says of one item, by response index. `choice` is None when they are about the `same`.

    `contradicts` is what the page believes; what is stored follows from the values.
    """

    quality: tuple[int, ...]
    choice: int | None
    same: bool
    reason: str = ""
    contradicts: bool = False


class Outcome(TextChoices):
    """What became of a verdict that was sent."""

    STORED = "stored", "stored"
    ALREADY = "already", "stored already"  # the form was sent twice, or says the same again
    SURPLUS = "surplus", "kept, not counted"
    CHANGED = "changed", "changed"


def submit(
    token: UUID,
    verdict: Verdict | Callable[[str], Verdict],
    *,
    rater: Rater,
    client_id: UUID,
    active_ms: int = 0,
    campaign: Campaign | None = None,
) -> tuple[Answer, Outcome]:
    """Store what a rater says under the lease `token`; `active_ms` is the time of work since the last heartbeat.

    A verdict that is known by place on the screen is given as a function of the order in which the responses stand.
    Sent twice with the same `client_id`, it is stored once. A second verdict on an item that differs changes the first.
    An answer counts while the rater holds the lease, run out or not, and the campaign is not closed; or when the slot
    is free again. Else it is kept as surplus with the reason. Raises UserError for values outside the campaign's scale,
    and when the lease is of another campaign than the one that is named.
    """
    with transaction.atomic():
        part, lease = locked_lease(token, rater)
        if campaign is not None and campaign.pk != part.campaign_id:
            raise UserError(LOST)
        values = _values(verdict(lease.order) if callable(verdict) else verdict, part.campaign)
        if earlier := _known(client_id, lease.item_id, rater):
            return _say_again(earlier, values, part, client_id=client_id, item=lease.item)
        answer = _new_answer(part, lease, values, client_id=client_id, active_ms=active_ms)
        _seat(answer, part, lease)
        insert(answer)
        if lease.item.kind == Item.Kind.QUALIFICATION:
            settle_qualification(part)
    return answer, Outcome.STORED if answer.standing == _Standing.COUNTED else Outcome.SURPLUS


_KNOWN = """
SELECT FROM human_eval_answer
WHERE client_id = %(client)s::uuid OR item_id = %(item)s AND rater_id = %(rater)s LIMIT 1
"""


def _known(client_id: UUID, item: int, rater: Rater) -> list[Answer]:
    """Return what was said before by this form or of this item; nearly always nothing."""
    if first_row(_KNOWN, {"client": str(client_id), "item": item, "rater": rater.pk}) is None:
        return []
    return list(Answer.objects.filter(Q(client_id=client_id) | Q(item_id=item, rater=rater)))


def change(answer: Answer, verdict: Verdict) -> Answer:
    """Replace what a rater said by what they say now; what it was is kept as an AnswerVersion.

    Raises UserError when the campaign is closed, the rater is excluded, or the answer was to a qualification item.
    """
    with transaction.atomic():
        part = lock_participation(answer.campaign_id, answer.rater)
        found = Answer.objects.select_for_update(of=("self",)).select_related("item").get(pk=answer.pk)
        _change(found, _values(verdict, part.campaign), part)
    return found


def flag(item: Item, *, rater: Rater, reason: str, response: int | None = None, note: str = "") -> Flag:
    """Ask somebody to look at an item; said twice in the same words, it is noted once.

    Raises UserError when the rater never had the item.
    """
    if reason not in Flag.Reason.values:
        message = (
            f"the reason to flag must be one of {', '.join(Flag.Reason.values)}, got {reason!r}; choose one of the list"
        )
        raise UserError(message)
    if response is not None and not item.responses.filter(index=response).exists():
        message = f"this task has no response {response + 1}; flag one of those shown, or the whole task"
        raise UserError(message)
    if not any(
        rows.filter(item=item, rater=rater).exists() for rows in (Slot.objects, Answer.objects, EndedLease.objects)
    ):
        message = "this task was never yours; flag one that you were given"
        raise UserError(message)
    said = {"reason": reason, "response": response, "note": bounded_text(note, "note")}
    same = Flag.objects.filter(item=item, rater=rater, settled=None, **said)
    return same.first() or Flag.objects.create(item=item, rater=rater, **said)


def _values(verdict: Verdict, campaign: Campaign) -> dict[str, Any]:
    """Return the columns of a verdict. Raises UserError for what the campaign does not ask."""
    low, high, way = campaign.scale_min, campaign.scale_max, campaign.way
    quality = tuple(verdict.quality)
    if len(quality) != way or any(type(score) is not int or not low <= score <= high for score in quality):
        message = f"every one of the {way} responses needs a score from {low} to {high}, got {list(quality)}; score those that are missing"
        raise UserError(message)
    if verdict.same != (verdict.choice is None) or verdict.choice not in {None, *range(way)}:
        message = f"exactly one of the {way} responses or {campaign.same_label!r} must be chosen, got {verdict.choice!r}; choose one"
        raise UserError(message)
    return {
        "quality_0": quality[0],
        "quality_1": quality[1],
        "quality_2": quality[2] if len(quality) > 2 else None,  # noqa: PLR2004 - the third
        "choice": verdict.choice,
        "same": verdict.same,
        "contradicts": verdict.choice is not None and quality[verdict.choice] < max(quality),
        "reason": bounded_text(verdict.reason, "reason"),
    }


def _new_answer(
    part: Participation, lease: Slot | EndedLease, values: dict[str, Any], *, client_id: UUID, active_ms: int
) -> Answer:
    since = lease.shown or lease.claimed
    elapsed = max(0, round((lease.now - since).total_seconds() * 1000))  # type: ignore[union-attr]
    return Answer(
        campaign=part.campaign,
        item=lease.item,
        rater=part.rater,
        client_id=client_id,
        order=lease.order,
        active_ms=min(lease.active_ms + max(0, int(active_ms)), elapsed),
        elapsed_ms=elapsed,
        submitted=lease.now,  # type: ignore[union-attr]
        **values,
    )


def _seat(answer: Answer, part: Participation, lease: Slot | EndedLease) -> None:
    """Decide whether a new answer counts, and give it its slot."""
    closed = part.campaign.status == Campaign.Status.CLOSED
    if isinstance(lease, EndedLease):
        _seat_late(answer, part, lease, closed=closed)
    elif closed:
        end_leases([lease], EndedLease.Why.CLOSED)
        _set_aside(answer, lease if is_main(lease) else None, _CLOSED)
    else:
        seat([(answer, lease)])


def _seat_late(answer: Answer, part: Participation, lease: EndedLease, *, closed: bool) -> None:
    """Count work whose lease had ended if its slot is free all the same, else say why it does not count."""
    slot = next(iter(lock_slots(Slot.objects.filter(ended_leases=lease))), None)
    Skip.objects.filter(item=answer.item, rater=part.rater).delete()
    if closed:
        _set_aside(answer, slot, _CLOSED)
    elif Exclusion.objects.filter(campaign=part.campaign, rater=part.rater, lifted=None).exists():
        answer.standing, answer.slot = _Standing.EXCLUDED, slot
    elif has_had_enough(part.campaign, part.rater):
        _set_aside(answer, slot, _OVER_MAXIMUM)
    elif slot is not None and slot.status == Slot.Status.OPEN:
        seat([(answer, slot)])
    else:
        _set_aside(answer, slot, _LATE[EndedLease.Why(lease.why)])


def _set_aside(answer: Answer, slot: Slot | None, reason: str) -> None:
    answer.standing, answer.slot, answer.surplus_reason = _Standing.SURPLUS, slot, reason


def _say_again(
    known: list[Answer], values: dict[str, Any], part: Participation, *, client_id: UUID, item: Item
) -> tuple[Answer, Outcome]:
    """Take a verdict on an item that this rater has answered. A form that was stored before changes nothing."""
    if any((other.item_id, other.rater_id) != (item.pk, part.rater_id) for other in known):
        message = "this form was sent for another task before; load the task again and fill in the new form"
        raise UserError(message)
    (earlier,) = known
    was_said = [version.values for version in earlier.versions.all()]
    if _said(earlier) == values or values | {"client_id": str(client_id)} in was_said:
        return earlier, Outcome.ALREADY
    _change(earlier, values, part, client_id=client_id)
    return earlier, Outcome.CHANGED


def _said(answer: Answer) -> dict[str, Any]:
    names = ("quality_0", "quality_1", "quality_2", "choice", "same", "contradicts", "reason")
    return {name: getattr(answer, name) for name in names}


def _change(answer: Answer, values: dict[str, Any], part: Participation, *, client_id: UUID | None = None) -> None:
    """Write new values over an answer whose rater's participation is locked."""
    said = _said(answer)
    if said == values:
        return
    if part.campaign.status == Campaign.Status.CLOSED:
        message = "the campaign is closed, so answers cannot be changed any more; what you said first stands"
        raise UserError(message)
    if answer.item.kind == Item.Kind.QUALIFICATION:
        message = "this was a practice task and has been marked; what you said first stands"
        raise UserError(message)
    if answer.standing == _Standing.EXCLUDED:
        message = "your answers are not part of this campaign any more, so they cannot be changed"
        raise UserError(message)
    AnswerVersion.objects.create(answer=answer, values=said | {"client_id": str(answer.client_id)})
    names = {**values, "client_id": client_id or answer.client_id}
    Answer.objects.filter(pk=answer.pk).update(**names, changed=Now())
    answer.refresh_from_db()
