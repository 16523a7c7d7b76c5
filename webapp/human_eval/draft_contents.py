"""Change what a draft compares: its systems, and the prompts it is about.

Everything hangs on prompts and systems, so both are made anew; responses that are still wanted go from the old ones to
the new ones. Known tasks, invitations and settings stay.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet

from rso_core.errors import UserError
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.human_eval.creation import (
    Created,
    SystemChoice,
    draw_prompts,
    find_responses,
    make_contents,
    refuse_systems,
    what_was_chosen,
)
from webapp.human_eval.models import Campaign, Item, Response, System
from webapp.human_eval.prompt_sets import PromptSet
from webapp.human_eval.response_files import read_response_file
from webapp.human_eval.responses import Found, fill, lock_samplings, stop_unasked
from webapp.runs.models import Dataset

SOURCE = ("dataset", "split", "num_items", "seed")  # the fields that say which prompts are drawn
_ASIDE = 1_000_000_000  # added to the index of known tasks while the others are numbered anew


def change_contents(
    campaign: Campaign, values: Mapping[str, Any], systems: Sequence[SystemChoice], *, by: User
) -> Created:
    """Give a draft other systems and prompts; `values` are the fields of `SOURCE`, and `task`.

    While nothing of `SOURCE` changes the prompts stay as they are, but for those that a new system was trained on.
    Raises UserError when the systems cannot be compared, there are too few prompts, or the campaign has been opened.
    """
    with transaction.atomic():
        locked = Campaign.objects.select_for_update().get(pk=campaign.pk)
        if locked.status != Campaign.Status.DRAFT:
            message = f"{locked.name!r} has been opened: its systems and prompts stay. Clone it to compare others"
            raise UserError(message)
        same = all(getattr(locked, name) == values[name] for name in SOURCE)
        for name, value in values.items():
            setattr(locked, name, value)
        locked.way = len(systems)
        dataset = refuse_systems(systems, locked)
        prompts = _prompts_there(locked, dataset, systems) if same else _drawn(locked, dataset, systems)
        locked.num_items = len(prompts.rows)
        locked.save(update_fields=[*SOURCE, "task", "way"])
        _replace(locked, systems, prompts)
        record(by, "changed systems and prompts of", locked, **what_was_chosen(systems, prompts))
    campaign.refresh_from_db()
    return Created(campaign, prompts)


def _drawn(campaign: Campaign, dataset: Dataset, systems: Sequence[SystemChoice]) -> PromptSet:
    return draw_prompts(campaign, dataset, systems, limit=campaign.num_items)


def _prompts_there(campaign: Campaign, dataset: Dataset, systems: Sequence[SystemChoice]) -> PromptSet:
    """Return the prompts of a draft in their order, without those that a system may not be asked."""
    usable = draw_prompts(campaign, dataset, systems, limit=0)
    rows = {row["prompt_id"]: row for row in usable.rows}
    there = list(_main(campaign).order_by("index").values_list("prompt_id", flat=True))
    kept = [rows[prompt] for prompt in there if prompt in rows]
    if not kept:
        message = f"none of the prompts of {campaign.name!r} is left when those that a system was trained on are taken out; draw others"
        raise UserError(message)
    return PromptSet(kept, usable.available, len(there) - len(kept))


def _main(campaign: Campaign) -> QuerySet[Item]:
    return Item.objects.filter(campaign=campaign, kind=Item.Kind.MAIN)


def _replace(campaign: Campaign, systems: Sequence[SystemChoice], prompts: PromptSet) -> None:
    """Put new systems, items and responses in the place of the old ones."""
    before = list(campaign.systems.all())
    asked = lock_samplings(before)
    said = {system.pk: _said(system) for system in before}
    known = Item.objects.filter(campaign=campaign).exclude(kind=Item.Kind.MAIN)
    Response.objects.filter(item__in=_main(campaign)).delete()
    _main(campaign).delete()
    campaign.systems.all().delete()
    known.update(index=F("index") + _ASIDE)
    for system, choice in zip(make_contents(campaign, systems, prompts), systems, strict=True):
        if (old := next((old for old in before if _is_same(old, choice)), None)) is not None:
            _take_over(system, old, said[old.pk])
        find_responses(system, prompts)
    for place, item in enumerate(known.order_by("index"), start=len(prompts.rows)):
        known.filter(pk=item.pk).update(index=place)
    stop_unasked(asked)


def _said(system: System) -> Found:
    rows = Response.objects.filter(system=system).values_list("item__prompt_id", "text", "truncated")
    return {prompt: (text, truncated) for prompt, text, truncated in rows}


def _is_same(old: System, choice: SystemChoice) -> bool:
    """Return whether a chosen system says what an old one said. Targets are read from the dataset, which may be another."""
    if choice.kind == System.Kind.FILE:
        return choice.uploaded == old.index
    return choice.run is not None and (old.kind, old.run_id) == (choice.kind, choice.run.pk)


def _take_over(system: System, old: System, said: Found) -> None:
    """Give a system the responses of an old one; a file may also answer prompts that were not asked before."""
    fill(system, said)
    if old.upload_digest:
        fill(
            system, {prompt: (text, False) for prompt, text in read_response_file(old.upload_digest).responses.items()}
        )
    if old.upload_name:
        System.objects.filter(pk=system.pk).update(upload_digest=old.upload_digest, upload_name=old.upload_name)
