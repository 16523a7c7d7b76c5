"""Tasks whose answer the researcher knows: to qualify raters (with feedback), or to check them among the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Max

from rso_core.artifacts import read_table
from rso_core.errors import UserError
from rso_core.layouts import parse_transcript
from rso_core.run_data import choose_prompts
from rso_core.vocabulary import Message, prompt_id
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.human_eval.changes import why_fixed
from webapp.human_eval.launching import balanced_orders
from webapp.human_eval.models import Campaign, Item, Response, Slot
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset
from webapp.runs.text import storable

_FIRST_SPEAKERS = ("Human: ", "Assistant: ")


@dataclass(frozen=True)
class KnownTask:
    """A task with its answer: the index of the best response, or None when they are about the same."""

    kind: str
    prompt: str
    responses: Sequence[str]
    expected: int | None
    feedback: str = ""


def add_known_item(campaign: Campaign, task: KnownTask, *, by: User) -> Item:
    """Add a known task. Check tasks may come at any time; qualification tasks before anybody had to pass them."""
    with transaction.atomic():
        locked = Campaign.objects.select_for_update().get(pk=campaign.pk)
        _refuse(locked, task)
        last = locked.items.aggregate(last=Max("index"))["last"]
        index = 0 if last is None else last + 1
        order = balanced_orders(index + 1, way=locked.way, seed=locked.seed)[index]
        item = Item.objects.create(
            campaign=locked,
            index=index,
            kind=task.kind,
            prompt_id=prompt_id(task.prompt),
            prompt=storable(task.prompt),
            messages=_turns(storable(task.prompt)),
            base_order=order,
            expected_choice=task.expected,
            expected_same=task.expected is None,
            feedback=storable(task.feedback),
        )
        Response.objects.bulk_create(
            Response(item=item, index=place, text=storable(text)) for place, text in enumerate(task.responses)
        )
        record(by, f"added a {task.kind} task to", locked, item=item.number)
    return item


def _refuse(campaign: Campaign, task: KnownTask) -> None:
    if len(task.responses) != campaign.way or not task.prompt.strip():
        message = (
            f"a known task of this campaign needs a prompt and {campaign.way} responses, got {len(task.responses)}"
        )
        raise UserError(message)
    if task.expected is not None and not 0 <= task.expected < campaign.way:
        message = f"the best response must be one of the {campaign.way}, or none; got number {task.expected + 1}"
        raise UserError(message)
    if task.kind == Item.Kind.QUALIFICATION and (reason := why_fixed(campaign)):
        message = f"qualification tasks cannot be added: {reason}"
        raise UserError(message)


def _turns(prompt: str) -> list[Message]:
    """Return the turns of a conversation as prompts write it, so that nothing tells a known task from the others."""
    turns = parse_transcript(f"\n\n{prompt}") if prompt.startswith(_FIRST_SPEAKERS) else []
    return turns or [{"role": "user", "content": prompt}]


def remove_known_item(item: Item, *, by: User) -> None:
    """Remove a known task. Raises UserError once a rater has had it."""
    with transaction.atomic():
        Campaign.objects.select_for_update().get(pk=item.campaign_id)
        if item.kind == Item.Kind.MAIN:
            message = "only known tasks can be removed here"
            raise UserError(message)
        if Slot.objects.filter(item=item).exists() or item.answers.exists():
            message = f"task {item.number} has been given to raters and cannot be removed; lower the share of check tasks instead"
            raise UserError(message)
        record(by, f"removed a {item.kind} task from", item.campaign, item=item.number)
        Response.objects.filter(item=item).delete()
        item.delete()


def suggestion(campaign: Campaign, dataset: Dataset, number: int) -> KnownTask:
    """Return a known task made of the `number`-th drawn pair of a preference dataset, for the researcher to look at.

    What people preferred is the best response, the other one of the pair comes second, and the third of a three-way
    task answers another prompt, so it is wrong. People disagree about pairs: read it before you save it.
    """
    table = read_table(store().files(dataset.digest), ["prompt_id", "prompt", "chosen", "rejected"])
    first: dict[str, int] = {}
    for row, prompt in enumerate(table["prompt_id"].to_pylist()):
        first.setdefault(prompt, row)
    used = set(campaign.items.values_list("prompt_id", flat=True))
    drawn = choose_prompts(set(first) - used, 0, campaign.seed)
    if len(drawn) < campaign.way - 1:
        message = f"{dataset.name!r} has no prompts left that are not in this campaign already"
        raise UserError(message)
    places = [first[drawn[(number + step) % len(drawn)]] for step in range(2)]
    row, other = table.take(places).to_pylist() if len(set(places)) > 1 else table.take(places[:1]).to_pylist() * 2
    responses = [row["chosen"], row["rejected"], other["chosen"]][: campaign.way]
    return KnownTask(kind=Item.Kind.CHECK, prompt=row["prompt"], responses=responses, expected=0)
