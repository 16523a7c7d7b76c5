"""Make a draft: which systems are compared, on which prompts, and what they answered."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction

from rso_core.artifacts import Row
from rso_core.errors import UserError
from rso_core.vocabulary import text_digest
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.human_eval.models import Campaign, Item, Response, System
from webapp.human_eval.prompt_sets import PromptSet, prompt_set
from webapp.human_eval.responses import fill, lock_samplings, model_digest, request_responses, stop_unasked
from webapp.runs.models import Dataset, Run, Status
from webapp.runs.text import storable

WAYS = (2, 3)
_LONGEST_ROOT = 200


@dataclass(frozen=True)
class SystemChoice:
    """A system to compare. `run` is given for policies and SFT models; responses of a FILE are uploaded afterwards.

    `uploaded` is the index of the draft's system whose uploaded responses it keeps.
    """

    kind: str
    label: str
    run: Run | None = None
    is_reference: bool = False
    uploaded: int | None = None


class Created(NamedTuple):
    """A new draft, and what was left out when its prompts were chosen."""

    campaign: Campaign
    prompts: PromptSet


def create_campaign(*, owner: User, values: Mapping[str, Any], systems: Sequence[SystemChoice]) -> Created:
    """Make a draft with its prompts; responses that are not there are asked for. `values` are fields of `Campaign`.

    Raises UserError when the systems cannot be compared, a name is taken, or there are too few prompts.
    """
    campaign = Campaign(owner=owner, way=len(systems), **values)
    dataset = refuse_systems(systems, campaign)
    prompts = draw_prompts(campaign, dataset, systems, limit=campaign.num_items)
    campaign.num_items = len(prompts.rows)
    with transaction.atomic():
        _save(campaign)
        for system in make_contents(campaign, systems, prompts):
            find_responses(system, prompts)
        record(owner, "created", campaign, **what_was_chosen(systems, prompts))
    return Created(campaign, prompts)


def draw_prompts(campaign: Campaign, dataset: Dataset, systems: Sequence[SystemChoice], *, limit: int) -> PromptSet:
    """Draw `limit` prompts (0: all) of the campaign's split that none of the systems was trained on."""
    runs = {choice.run.pk: choice.run for choice in systems if choice.run is not None}
    return prompt_set(dataset, split=campaign.split, runs=runs.values(), limit=limit, seed=campaign.seed)


def make_contents(campaign: Campaign, systems: Sequence[SystemChoice], prompts: PromptSet) -> list[System]:
    """Make the systems, which are returned, and the counted items of a draft that has none."""
    made = [_system(campaign, index, choice) for index, choice in enumerate(systems)]
    Item.objects.bulk_create((_item(campaign, i, row) for i, row in enumerate(prompts.rows)), batch_size=1000)
    return made


def what_was_chosen(systems: Sequence[SystemChoice], prompts: PromptSet) -> dict[str, Any]:
    """Return for the audit log what is compared, and on how many prompts."""
    labels = [choice.label for choice in systems]
    return {"systems": labels, "prompts": len(prompts.rows), "left_out_as_trained_on": prompts.trained_on}


def refuse_systems(systems: Sequence[SystemChoice], campaign: Campaign) -> Dataset:
    """Raise UserError, saying what is wrong, unless the systems can be compared on the campaign's dataset; return that."""
    if campaign.dataset is None:
        message = "a campaign needs a dataset to take its prompts from"
        raise UserError(message)
    if len(systems) not in WAYS:
        message = f"a campaign compares two or three systems, got {len(systems)}"
        raise UserError(message)
    labels = [choice.label for choice in systems]
    if double := next((label for label in labels if labels.count(label) > 1), ""):
        message = f"two systems are called {double!r}; give each a name of its own"
        raise UserError(message)
    sources = [(choice.kind, choice.run.pk if choice.run else None, choice.uploaded) for choice in systems]
    if any(sources.count(source) > 1 for source in sources if source[0] != System.Kind.FILE or source[2] is not None):
        message = "two of the systems are the same; choose different ones"
        raise UserError(message)
    for choice in systems:
        _refuse_system(choice, campaign, campaign.dataset)
    return campaign.dataset


def _refuse_system(choice: SystemChoice, campaign: Campaign, dataset: Dataset) -> None:
    if choice.kind == System.Kind.TARGET and dataset.kind != Dataset.Kind.SFT:
        message = f"{dataset.name!r} holds {dataset.get_kind_display()}, no SFT targets; choose an SFT dataset, or another system"
        raise UserError(message)
    if choice.kind not in {System.Kind.POLICY, System.Kind.SFT}:
        return
    if choice.run is None or choice.run.status != Status.DONE:
        message = f"{choice.label!r} must be a model of a finished run; choose one whose state is done"
        raise UserError(message)
    model_digest(choice.run, choice.kind)
    if choice.run.config["task"] != campaign.task:
        message = (
            f"the run {choice.run.name!r} was made for {choice.run.config['task']}, and this campaign is about "
            f"{campaign.task}; choose a run of the same task"
        )
        raise UserError(message)


def _save(campaign: Campaign) -> None:
    try:
        with transaction.atomic():
            campaign.save(force_insert=True)
    except IntegrityError as error:
        if "campaign_name_is_unique" not in str(error):
            raise
        raise name_taken(campaign.name) from error


def name_taken(name: str) -> UserError:
    """Return the error for a name that another campaign of the same owner has."""
    return UserError(f"you have a campaign called {name!r} already; choose another name")


def _system(campaign: Campaign, index: int, choice: SystemChoice) -> System:
    return System.objects.create(
        campaign=campaign,
        index=index,
        label=choice.label,
        kind=choice.kind,
        run=choice.run,
        is_reference=choice.is_reference and campaign.way == WAYS[0],
    )


def _item(campaign: Campaign, index: int, row: Row) -> Item:
    root = row["root"] if len(row["root"]) <= _LONGEST_ROOT else text_digest(row["root"])
    messages = [{**turn, "content": storable(turn["content"])} for turn in json.loads(row["messages"])]
    return Item(
        campaign=campaign,
        index=index,
        prompt_id=row["prompt_id"],
        root=storable(root),
        prompt=storable(row["prompt"]),
        messages=messages,
        base_order="012"[: campaign.way],
    )


def find_responses(system: System, prompts: PromptSet) -> None:
    """Store the responses of a system that are somewhere, and ask a worker for the rest; a file's are uploaded."""
    if system.kind == System.Kind.TARGET:
        fill(system, {row["prompt_id"]: (row["target"], False) for row in prompts.rows})
    else:
        request_responses(system)


def remove_draft(campaign: Campaign, *, by: User) -> None:
    """Remove a draft. Raises UserError once it has been opened: what people rated stays."""
    with transaction.atomic():
        locked = Campaign.objects.select_for_update().get(pk=campaign.pk)
        if locked.status != Campaign.Status.DRAFT:
            message = f"{locked.name!r} has been opened and cannot be removed any more; close it instead"
            raise UserError(message)
        record(by, "removed", locked)
        asked = lock_samplings(locked.systems.all())
        Response.objects.filter(item__campaign=locked).delete()
        locked.delete()
        stop_unasked(asked)
