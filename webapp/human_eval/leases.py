"""What raters' actions are made of: one action of a rater at a time, the order of responses, leases that end.

Three rules keep concurrent transactions right and out of each other's way. Whoever decides anything about a rater
holds the rater's participation, so two tabs act one after the other, and every decision is read in a statement that
starts after the lock is held. Locks are taken in one direction: campaign, participation, slots in ascending id,
answers. And all time is the database's.
"""

from typing import Any
from uuid import UUID, uuid4

from django.db.models import QuerySet
from django.db.models.functions import Now

from rso_core.errors import UserError
from webapp.human_eval.models import Answer, Campaign, EndedLease, Item, Participation, Rater, Slot


def order_of(base_order: str, number: int) -> str:
    """Return the response indices from left to right of replica `number`: a row of the cyclic Latin square.

    Over `way` replicas each response stands once in every place; every second block of them uses the reversed rows, so
    that each neighbourhood comes up as often as its mirror image.
    """
    shift = number % len(base_order)
    row = base_order[shift:] + base_order[:shift]
    return row[::-1] if number // len(base_order) % 2 else row


# The same for SQL, of a slot `slot` and its item `item`.
ORDER_SQL = """
CASE WHEN mod(slot.number / length(item.base_order), 2) = 1 THEN reverse({row}) ELSE {row} END
""".format(
    row="""(substr(item.base_order, mod(slot.number, length(item.base_order))::int + 1)
    || substr(item.base_order, 1, mod(slot.number, length(item.base_order))::int))"""
)


def not_joined(rater: Rater) -> UserError:
    """Return the error that this rater has no part in the campaign."""
    return UserError(f"{rater} has not joined this campaign; open the link you were given and agree to take part first")


def lock_participation(campaign: Campaign | int, rater: Rater) -> Participation:
    """Lock a rater's part in a campaign until the transaction ends. Raises UserError when there is none."""
    part = _parts(rater).filter(campaign=campaign).first()
    if part is None:
        raise not_joined(rater)
    return part


def _parts(rater: Rater) -> QuerySet[Participation]:
    parts = Participation.objects.select_for_update(no_key=True, of=("self",)).select_related("campaign")
    return parts.filter(rater=rater)


def locked_lease(token: UUID, rater: Rater) -> tuple[Participation, Slot | EndedLease]:
    """Lock what a rater does under a token: their participation, and the slot if it is still theirs.

    Slots and ended leases have an attribute `now`, the database's time. Raises UserError when the rater never had the token.
    """
    part = (
        _parts(rater).filter(campaign__slots__token=token).first()
        or _parts(rater).filter(campaign__items__ended_leases__token=token).first()
    )
    # Looked at again under the lock: the lease may have ended in between, and then it is among the ended ones.
    theirs = Slot.objects.filter(token=token, rater=rater).select_for_update(no_key=True, of=("self",))
    ended = EndedLease.objects.filter(token=token, rater=rater)
    lease = (
        theirs.select_related("item").annotate(now=Now()).first()
        or ended.select_related("item").annotate(now=Now()).first()
    )
    if part is None or lease is None:
        message = "this task is not yours, or does not exist any more; go on with the next one"
        raise UserError(message)
    return part, lease


def lock_slots(slots: QuerySet[Slot]) -> list[Slot]:
    """Lock slots in ascending id and return them as they are once locked."""
    return list(slots.order_by("pk").select_for_update(no_key=True, of=("self",)).select_related("item"))


def end_lease(slot: Slot, why: EndedLease.Why) -> None:
    """Take a locked, leased slot from its rater and remember the lease. A slot of a main item goes to somebody else."""
    main = slot.item.kind == Item.Kind.MAIN
    kept = ("token", "item_id", "rater_id", "order", "claimed", "shown", "active_ms", "draft")
    values: dict[str, Any] = {name: getattr(slot, name) for name in kept}
    EndedLease.objects.create(**values, slot_id=slot.pk if main else None, why=why)
    if main:
        release(slot)
    else:
        slot.delete()  # it was made for this rater, and nobody else may have it


def release(slot: Slot) -> None:
    """Open a locked slot for anybody."""
    Slot.objects.filter(pk=slot.pk).update(
        status=Slot.Status.OPEN,
        rater=None,
        token=None,
        order="",
        ahead=False,
        claimed=None,
        shown=None,
        lease_expires=None,
        active_ms=0,
        draft=None,
    )


def seat(answer: Answer, slot: Slot) -> None:
    """Let an answer count in a locked slot that is leased to its rater or open; the answer is still to be saved."""
    Slot.objects.filter(pk=slot.pk).update(
        status=Slot.Status.SUBMITTED,
        rater=answer.rater,
        token=slot.token or uuid4(),
        order=answer.order,
        ahead=False,
        claimed=slot.claimed or answer.submitted,
        shown=slot.shown or slot.claimed or answer.submitted,
        lease_expires=slot.lease_expires or answer.submitted,
        active_ms=answer.active_ms,
        draft=None,
    )
    answer.standing, answer.slot, answer.surplus_reason = Answer.Standing.COUNTED, slot, ""
