"""Change a campaign: what may be changed when, so that answers given before mean the same as answers given after.

Names, texts, limits and more replicas are free at any time. Questions, scale and what it takes to qualify give the
answers their meaning: they are fixed once somebody has had a task in hand, and while the campaign is open, when
somebody may have one at any moment. Systems and prompts stay once a draft has been opened (`draft_contents`).
"""

from collections.abc import Collection, Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F

from rso_core.errors import UserError
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.human_eval.creation import name_taken
from webapp.human_eval.models import Answer, Campaign, Item, Response, Slot

FREE = (
    "name", "title", "instructions", "consent", "lease_seconds", "max_items_per_rater", "check_share", "replicas",
)  # fmt: skip
MEANING = (
    "quality_question", "choice_question", "same_label", "scale_min", "scale_max", "anchors", "qualification_pass",
)  # fmt: skip
WORDS = {
    "quality_question": "question about quality",
    "choice_question": "question about the best",
    "same_label": "words for “same”",
    "scale_min": "lowest point of the scale",
    "scale_max": "highest point of the scale",
    "anchors": "words of the scale points",
    "qualification_pass": "number of right answers to qualify",
}


def why_fixed(campaign: Campaign) -> str:
    """Return why what gives answers their meaning cannot be changed now, "" when it can."""
    if campaign.status == Campaign.Status.DRAFT:
        return ""
    if Answer.objects.filter(campaign=campaign).exists() or _taken(campaign):
        return "raters have had tasks in hand, and their answers must keep their meaning; clone the campaign to ask otherwise"
    if campaign.status == Campaign.Status.OPEN:
        return "the campaign is open and somebody may take a task at any moment; pause it first"
    return ""


def _taken(campaign: Campaign) -> bool:
    return Slot.objects.filter(campaign=campaign, rater__isnull=False).exists()


def edit_campaign(campaign: Campaign, values: Mapping[str, Any], *, by: User) -> list[str]:
    """Change fields of a campaign; return which did change. Raises UserError for what is fixed by now.

    A changed consent text becomes a new version, which raters are asked again to agree to.
    """
    with transaction.atomic():
        locked = Campaign.objects.select_for_update().get(pk=campaign.pk)
        changed = [name for name, value in values.items() if getattr(locked, name) != value]
        _refuse_fixed(locked, changed)
        _refuse_fewer_replicas(locked, values)
        before = {name: getattr(locked, name) for name in changed}
        for name in changed:
            setattr(locked, name, values[name])
        if "consent" in changed:
            locked.consent_version = F("consent_version") + 1
        _save(locked, [*changed, "consent_version"])
        if "replicas" in changed:
            _add_slots(locked, before["replicas"])
        if changed:
            record(by, "changed", locked, fields={name: [before[name], values[name]] for name in changed})
    campaign.refresh_from_db()
    return changed


def _refuse_fixed(campaign: Campaign, changed: Collection[str]) -> None:
    if unknown := set(changed) - {*FREE, *MEANING}:
        message = f"{', '.join(sorted(unknown))} cannot be changed; clone the campaign to compare other things"
        raise UserError(message)
    fixed = [WORDS[name] for name in MEANING if name in changed]
    if fixed and (reason := why_fixed(campaign)):
        message = f"the {', the '.join(fixed)} cannot be changed: {reason}"
        raise UserError(message)


def _refuse_fewer_replicas(campaign: Campaign, values: Mapping[str, Any]) -> None:
    wanted = values.get("replicas", campaign.replicas)
    if campaign.status != Campaign.Status.DRAFT and wanted < campaign.replicas:
        message = (
            f"raters per task can only be raised once a campaign was opened: it has {campaign.replicas}, {wanted} were "
            f"asked for. Close the campaign instead; the results say how many answers each task has"
        )
        raise UserError(message)


def _save(campaign: Campaign, fields: list[str]) -> None:
    try:
        with transaction.atomic():
            campaign.save(update_fields=fields)
    except IntegrityError as error:
        if "campaign_name_is_unique" not in str(error):
            raise
        raise name_taken(campaign.name) from error


def _add_slots(campaign: Campaign, before: int) -> None:
    """Give every counted item the slots of the new replicas; a draft gets all of its slots when it is opened."""
    if campaign.status == Campaign.Status.DRAFT:
        return
    Slot.objects.bulk_create(
        (
            Slot(campaign=campaign, item_id=item, number=number, priority=priority)
            for item, priority in Item.objects.filter(campaign=campaign, kind=Item.Kind.MAIN).values_list(
                "pk", "priority"
            )
            for number in range(before, campaign.replicas)
        ),
        batch_size=2000,
    )


def rename_systems(campaign: Campaign, labels: Mapping[int, str], *, by: User) -> None:
    """Give systems (by index) other names: only researchers see them. Raises UserError when two would be the same."""
    if len(set(labels.values())) < len(labels):
        message = f"each system needs a name of its own, got {', '.join(labels.values())}"
        raise UserError(message)
    with transaction.atomic():
        before = {system.index: system.label for system in campaign.systems.select_for_update()}
        if {**before, **labels} == before:
            return
        for system in campaign.systems.all():  # by way of names nobody gives, as two may be swapped
            campaign.systems.filter(pk=system.pk).update(label=f"\u2026{system.index}")
        for index, label in {**before, **labels}.items():
            campaign.systems.filter(index=index).update(label=label)
        record(by, "renamed systems", campaign, before=list(before.values()), after=list(labels.values()))


def leave_out(campaign: Campaign, items: Collection[int], *, by: User, reason: str) -> int:
    """Take items (by key) out of a draft; return how many. Raises UserError once it has been opened."""
    with transaction.atomic():
        locked = Campaign.objects.select_for_update().get(pk=campaign.pk)
        if locked.status != Campaign.Status.DRAFT:
            message = f"{locked.name!r} has been opened: its tasks stay. The results can leave out what you do not want to count"
            raise UserError(message)
        found = Item.objects.filter(campaign=locked, pk__in=items)
        indices = list(found.values_list("index", flat=True))
        Response.objects.filter(item__in=found).delete()
        found.delete()
        left = Item.objects.filter(campaign=locked, kind=Item.Kind.MAIN).count()
        Campaign.objects.filter(pk=locked.pk).update(num_items=left)
        if indices:
            record(by, "left out", locked, items=[index + 1 for index in sorted(indices)], reason=reason)
    campaign.refresh_from_db()
    return len(indices)
