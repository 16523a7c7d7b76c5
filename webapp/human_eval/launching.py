"""Make a draft ready for raters: the orders that items begin with, their priorities and their slots.

Everything is drawn from the campaign's seed by hashing, so that a campaign opened twice from the same draft hands out
the same work, whatever the version of a random generator.
"""

import hashlib
from collections.abc import Sequence
from itertools import permutations

from django.db.models import Count

from rso_core.errors import UserError
from webapp.human_eval.models import Campaign, Item, Response, Slot, System

_SHOWN = 5  # examples in a message


def balanced_orders(count: int, *, way: int, seed: int) -> list[str]:
    """Return a first row of the Latin square for each of `count` items; each permutation comes up equally often, ± 1."""
    rows = ["".join(str(index) for index in row) for row in permutations(range(way))]
    rows = [rows[place] for place in _drawn(len(rows), seed, "rows")]
    orders = [""] * count
    for rank, place in enumerate(_drawn(count, seed, "orders")):
        orders[place] = rows[rank % len(rows)]
    return orders


def _drawn(count: int, seed: int, purpose: str) -> list[int]:
    """Return 0 … count - 1 in an order that depends on seed and purpose only."""

    def key(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{purpose}:{index}".encode()).digest()

    return sorted(range(count), key=key)


def make_slots(campaign: Campaign) -> int:
    """Give every item its order and priority, and every counted one its slots; return how many slots were made.

    The replicas of an item share its priority: raters finish items rather than begin new ones, so a campaign that
    ends early has many complete tasks and few incomplete ones.
    """
    items = list(Item.objects.filter(campaign=campaign).order_by("index"))
    orders = balanced_orders(len(items), way=campaign.way, seed=campaign.seed)
    for priority, place in enumerate(_drawn(len(items), campaign.seed, "priorities")):
        items[place].priority = float(priority)
    for item, order in zip(items, orders, strict=True):
        item.base_order = order
    Item.objects.bulk_update(items, ["base_order", "priority"], batch_size=500)
    main = [item for item in items if item.kind == Item.Kind.MAIN]
    slots = (
        Slot(campaign=campaign, item=item, number=number, priority=item.priority)
        for item in main
        for number in range(campaign.replicas)
    )
    return len(Slot.objects.bulk_create(slots, batch_size=2000))


def refuse_incomplete(campaign: Campaign) -> None:
    """Raise UserError, saying all that is missing, unless the campaign can be opened."""
    missing = list(what_is_missing(campaign))
    if missing:
        message = f"{campaign.name!r} cannot be opened yet: {'; '.join(missing)}"
        raise UserError(message)


def what_is_missing(campaign: Campaign) -> Sequence[str]:
    """Return what a draft needs before it can be opened, as sentences without their full stops."""
    found = []
    items = Item.objects.filter(campaign=campaign)
    if not items.filter(kind=Item.Kind.MAIN).exists():
        found.append("it has no prompts; choose a prompt set")
    found += [
        f"{missing} of the responses of {system.label!r} {'is' if missing == 1 else 'are'} not there yet"
        for system, missing in missing_responses(campaign)
    ]
    if not campaign.systems.exists():
        found.append("it has no systems")
    known_tasks = items.exclude(kind=Item.Kind.MAIN).annotate(count=Count("responses"))
    if odd := list(known_tasks.exclude(count=campaign.way).values_list("index", flat=True)[:_SHOWN]):
        numbers = ", ".join(str(index + 1) for index in odd)
        found.append(f"known tasks {numbers} need exactly {campaign.way} responses each")
    known = items.filter(kind=Item.Kind.QUALIFICATION).count()
    if campaign.qualification_pass > known:
        found.append(
            f"raters need {campaign.qualification_pass} right answers to qualify, and there are {known} qualification "
            f"tasks; add some, or lower the number"
        )
    return found


def missing_responses(campaign: Campaign) -> list[tuple[System, int]]:
    """Return the systems some of whose responses to counted items are not there, with how many."""
    total = Item.objects.filter(campaign=campaign, kind=Item.Kind.MAIN).count()
    there = Response.objects.filter(item__campaign=campaign, item__kind=Item.Kind.MAIN, system__isnull=False)
    counts = dict(there.values_list("system").annotate(Count("pk")))
    found = [(system, total - counts.get(system.pk, 0)) for system in campaign.systems.all()]
    return [(system, missing) for system, missing in found if missing]
