"""Leaving a rater's answers out of a campaign, as a recorded decision that can be undone.

While a rater is excluded, none of their answers count and their slots are open for others. When the exclusion is
lifted, answers whose slot is still free count again; the others are kept as surplus with the reason.
"""

from django.db import transaction
from django.db.models.functions import Now

from rso_core.errors import UserError
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.human_eval.leases import end_leases, is_main, lock_slots, seat
from webapp.human_eval.models import Answer, Campaign, EndedLease, Exclusion, Participation, Rater, Slot

_GONE = "its slot went to somebody else while the rater was excluded"
_Standing = Answer.Standing


def exclude(campaign: Campaign, rater: Rater, *, by: User | None, reason: str) -> Exclusion:
    """Leave a rater out: no answer of theirs counts any more, and their slots go to others.

    Raises UserError without a reason, when the rater is excluded already, and when they never took part.
    """
    if not reason.strip():
        message = "excluding a rater needs a reason, which is kept with the decision; say what you saw"
        raise UserError(message)
    with transaction.atomic():
        _lock(campaign, rater)
        if Exclusion.objects.filter(campaign=campaign, rater=rater, lifted=None).exists():
            message = f"{rater} is excluded from {campaign.name!r} already; load the page again to see why"
            raise UserError(message)
        exclusion = Exclusion.objects.create(campaign=campaign, rater=rater, reason=reason.strip(), by=by)
        slots = lock_slots(Slot.objects.filter(campaign=campaign, rater=rater))
        answers = Answer.objects.filter(campaign=campaign, rater=rater, standing=_Standing.COUNTED)
        left_out = answers.update(standing=_Standing.EXCLUDED, changed=Now())
        # Of known items everybody has a slot of their own: with an answer in it, it stays as it is.
        given_back = [slot for slot in slots if is_main(slot) or slot.status == Slot.Status.LEASED]
        end_leases(given_back, EndedLease.Why.EXCLUDED)
        record(by, "excluded", rater, campaign=campaign.pk, reason=exclusion.reason, answers=left_out)
    exclusion.refresh_from_db()
    return exclusion


def lift(exclusion: Exclusion, *, by: User | None) -> Exclusion:
    """Undo an exclusion: answers whose slot is still free count again, the others become surplus.

    Raises UserError when it has been lifted already.
    """
    with transaction.atomic():
        _lock(exclusion.campaign, exclusion.rater)
        if not Exclusion.objects.filter(pk=exclusion.pk, lifted=None).update(lifted=Now(), lifted_by=by):
            message = f"the exclusion of {exclusion.rater} has been lifted already; load the page again"
            raise UserError(message)
        counted, surplus = _count_again(exclusion)
        record(by, "lifted", exclusion.rater, campaign=exclusion.campaign_id, counted=counted, surplus=surplus)
    exclusion.refresh_from_db()
    return exclusion


def _lock(campaign: Campaign, rater: Rater) -> None:
    """Let one decision about a campaign's raters be made at a time, and none while this rater acts."""
    Campaign.objects.select_for_update(no_key=True).get(pk=campaign.pk)
    if not Participation.objects.select_for_update(no_key=True).filter(campaign=campaign, rater=rater):
        message = f"{rater} takes no part in {campaign.name!r}; choose one of its raters"
        raise UserError(message)


def _count_again(exclusion: Exclusion) -> tuple[int, int]:
    """Give the answers their slots back where these are free; return how many count again and how many do not."""
    excluded = Answer.objects.filter(
        campaign=exclusion.campaign, rater=exclusion.rater, standing=_Standing.EXCLUDED
    ).select_related("rater")
    slots = {slot.pk: slot for slot in lock_slots(Slot.objects.filter(pk__in=excluded.values("slot")))}
    found = [(answer, slots[answer.slot_id]) for answer in excluded if answer.slot_id in slots]
    seated = [(answer, slot) for answer, slot in found if _is_free(slot, exclusion.rater)]
    seat(seated)
    back = excluded.filter(pk__in=[answer.pk for answer, _ in seated])
    counted = back.update(standing=_Standing.COUNTED, surplus_reason="", changed=Now())
    return counted, excluded.update(standing=_Standing.SURPLUS, surplus_reason=_GONE, changed=Now())


def _is_free(slot: Slot, rater: Rater) -> bool:
    """Return whether an answer of the rater may count in a slot: it is open, or (of a known item) still their own."""
    return slot.status == Slot.Status.OPEN or (slot.status == Slot.Status.SUBMITTED and slot.rater_id == rater.pk)
