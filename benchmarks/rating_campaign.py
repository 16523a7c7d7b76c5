"""Campaigns to rate, with texts as long as those of TL;DR or as long as responses come, and invitations to them."""

import random
from typing import Any

_WORDS = "the author asks whether a heater can be mended before winter or not and **why** it `matters` to them"


def words(rng: random.Random, count: int) -> str:
    """Return so many words in paragraphs, with some Markdown among them."""
    drawn = rng.choices(_WORDS.split(), k=count)
    return "\n\n".join(" ".join(drawn[start : start + 60]) for start in range(0, count, 60))


def make_campaign(owner: Any, name: str, *, tasks: int, replicas: int, long: bool = False) -> Any:
    """Return an open campaign: posts of 100 to 350 words and responses of 15 to 120, or as `long` as they come."""
    from webapp.human_eval.models import Campaign, Item, Response, System
    from webapp.human_eval.services import open_campaign

    rng = random.Random(0)  # noqa: S311 - text, no secret
    campaign = Campaign.objects.create(
        owner=owner, name=name, title="Rate summaries", task="summarization", replicas=replicas, num_items=tasks, seed=3,
        quality_question="How good is this summary?", choice_question="Which summary is the best?",
        anchors={"1": "Poor", "3": "Fair", "5": "Excellent"}, instructions="Read the **post** first.\n\n" + words(rng, 120),
    )  # fmt: skip
    systems = System.objects.bulk_create(
        System(campaign=campaign, index=index, label=f"system {index}", kind="file") for index in range(3)
    )
    items = Item.objects.bulk_create(
        Item(campaign=campaign, index=index, prompt=words(rng, 500 if long else rng.randint(100, 350)), root=str(index))
        for index in range(tasks)
    )
    Response.objects.bulk_create(
        Response(item=item, index=system.index, system=system, text=words(rng, 350 if long else rng.randint(15, 120)))
        for item in items
        for system in systems
    )
    open_campaign(campaign, by=owner)
    return campaign


def invitations(campaign: Any, owner: Any, count: int) -> list[str]:
    """Return the tokens of so many invitations."""
    from webapp.human_eval.invitations import MOST_AT_ONCE, invite_many

    return [
        token
        for start in range(0, count, MOST_AT_ONCE)
        for token in invite_many(campaign, by=owner, notes=[""] * min(MOST_AT_ONCE, count - start))
    ]
