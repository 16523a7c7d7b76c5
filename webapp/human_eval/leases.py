"""What raters' actions are made of: one action of a rater at a time, the order of responses, leases that end.

Three rules keep concurrent transactions right and out of each other's way. Whoever decides anything about a rater
holds the rater's participation, so two tabs act one after the other, and every decision is read in a statement that
starts after the lock is held. Locks are taken in one direction: campaign, participation, slots in ascending id,
answers. And all time is the database's.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from django.db.models import QuerySet
from django.db.models.functions import Now

from rso_core.errors import UserError
from webapp.human_eval.models import Answer, Campaign, EndedLease, Item, Participation, Rater, Slot
from webapp.human_eval.rows import columns, first_row, made_each, update

LOST = "this task is not yours any more; go on with the next one"
_SEATED = ("status", "rater", "order", "token", "claimed", "shown", "lease_expires", "ahead", "active_ms", "draft")

# The response indices from left to right of a slot `slot` of the item `item`: a row of the item's cyclic Latin square. Over
# `way` replicas each response stands once in every place; every second block of them uses the reversed rows, so that each
# neighbourhood comes up as often as its mirror image.
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
    part.rater = rater
    return part


def _parts(rater: Rater) -> QuerySet[Participation]:
    parts = Participation.objects.select_for_update(no_key=True, of=("self",)).select_related("campaign")
    return parts.filter(rater=rater)


# Two statements of one round trip: the second begins when the lock is held, so it sees what was done before. Its time is the
# clock's, as `statement_timestamp` is when both arrived, which may be before whoever held the lock was through.
_LOCKED = f"""
SELECT FROM human_eval_participation WHERE rater_id = %(rater)s AND campaign_id = (
    SELECT campaign_id FROM human_eval_slot WHERE token = %(token)s::uuid AND rater_id = %(rater)s
) FOR NO KEY UPDATE;
SELECT clock_timestamp(), {columns(Slot, "slot")}, {columns(Item, "item")}, {columns(Participation, "part")},
       {columns(Campaign, "campaign")}
FROM human_eval_slot AS slot
JOIN human_eval_item AS item ON item.id = slot.item_id
JOIN human_eval_campaign AS campaign ON campaign.id = slot.campaign_id
JOIN human_eval_participation AS part ON part.campaign_id = slot.campaign_id AND part.rater_id = slot.rater_id
WHERE slot.token = %(token)s::uuid AND slot.rater_id = %(rater)s
FOR NO KEY UPDATE OF slot
"""  # noqa: S608 - made of this module's own words


def locked_lease(token: UUID, rater: Rater) -> tuple[Participation, Slot | EndedLease]:
    """Lock what a rater does under a token: their participation, and the slot if it is still theirs.

    Slots and ended leases have an attribute `now`, the database's time. Raises UserError when the rater never had the token.
    """
    row = first_row(_LOCKED, {"token": str(token), "rater": rater.pk})
    if row is None:
        return _locked_ended_lease(token, rater)
    now, *values = row
    slot, slot.item, part, part.campaign = made_each((Slot, Item, Participation, Campaign), values)
    slot.now, slot.campaign, slot.rater, part.rater = now, part.campaign, rater, rater
    return part, slot


def _locked_ended_lease(token: UUID, rater: Rater) -> tuple[Participation, EndedLease]:
    part = _parts(rater).filter(campaign__items__ended_leases__token=token).first()
    ended = EndedLease.objects.filter(token=token, rater=rater)
    lease = ended.select_related("item").annotate(now=Now()).first()
    if part is None or lease is None:
        raise UserError(LOST)
    part.rater = rater
    return part, lease


def lock_slots(slots: QuerySet[Slot]) -> list[Slot]:
    """Lock slots in ascending id and return them as they are once locked."""
    return list(slots.order_by("pk").select_for_update(no_key=True, of=("self",)).select_related("item"))


def end_leases(slots: Sequence[Slot], why: EndedLease.Why) -> None:
    """Take locked slots from their rater and remember the leases. Those of main items are open for anybody then."""
    kept = ("token", "item_id", "rater_id", "order", "claimed", "shown", "active_ms", "draft")
    ended = []
    for slot in slots:
        values: dict[str, Any] = {name: getattr(slot, name) for name in kept}
        ended.append(EndedLease(**values, slot=slot if is_main(slot) else None, why=why))
    EndedLease.objects.bulk_create(ended)
    Slot.objects.filter(pk__in=[slot.pk for slot in slots if is_main(slot)]).update(
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
    # They were made for this rater, and nobody else may have them.
    Slot.objects.filter(pk__in=[slot.pk for slot in slots if not is_main(slot)]).delete()


def is_main(slot: Slot) -> bool:
    """Return whether anybody else may have the slot."""
    return slot.item.kind == Item.Kind.MAIN


def seat(answers: Sequence[tuple[Answer, Slot]]) -> None:
    """Let answers count in locked slots that are leased to their rater or open; the answers are still to be saved."""
    for answer, slot in answers:
        slot.status, slot.rater, slot.order = Slot.Status.SUBMITTED, answer.rater, answer.order
        slot.token = slot.token or uuid4()
        slot.claimed = slot.claimed or answer.submitted
        slot.shown = slot.shown or slot.claimed
        slot.lease_expires = slot.lease_expires or answer.submitted
        slot.ahead, slot.active_ms, slot.draft = False, answer.active_ms, None
        answer.standing, answer.slot, answer.surplus_reason = Answer.Standing.COUNTED, slot, ""
    if len(answers) == 1:  # as with every answer that is given: `bulk_update` costs several times as much
        update(answers[0][1], _SEATED)
    else:
        Slot.objects.bulk_update([slot for _, slot in answers], _SEATED, batch_size=500)
