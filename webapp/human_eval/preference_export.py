"""A campaign's choices as preference pairs, which can be imported and trained on: the loop from rating to runs closes.

*By majority*: an item whose most chosen text has more than half of the counted votes gives one pair for each other
text. *By vote*: every counted choice gives its pairs, and equal ones become one with the number of `votes`; raters who
disagree give pairs in both directions. "Same" and items without a majority give none. Responses with the same text are
one text here. Conversation roots are those of the campaign, so that splits by conversation hold in later runs.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from django.db import transaction

from rso_core.errors import UserError
from webapp.accounts.audit import record
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.models import Answer, Campaign, Item
from webapp.human_eval.results_data import state_of
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset
from webapp.runs.services import request_dataset_import

By = Literal["majority", "votes"]
_FILE = "preferences.jsonl"
_LONGEST_SOURCE = 300


@dataclass
class PreferencePairs:
    """The pairs of a campaign, and why other items or votes gave none."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    items: int = 0  # with at least one counted answer
    same: int = 0  # items whose majority is "same"; votes, by vote
    no_majority: int = 0
    no_other_text: int = 0  # all responses are the same text
    repeated: int = 0  # equal pairs of other votes, kept as `votes` of one row

    @property
    def used(self) -> int:
        """Return how many prompts give a pair."""
        return len({row["meta"]["item"] for row in self.rows})


@dataclass(frozen=True)
class Preview:
    """What a preference dataset of a campaign would hold, in numbers."""

    pairs: int
    used: int
    items: int
    same: int
    no_majority: int
    no_other_text: int
    repeated: int


@lru_cache(maxsize=64)
def _preview(campaign: Campaign, by: By, _state: str) -> Preview:
    found = preference_pairs(campaign, by=by)
    return Preview(
        len(found.rows), found.used, found.items, found.same, found.no_majority, found.no_other_text, found.repeated
    )


def preview(campaign: Campaign, *, by: By) -> Preview:
    """Return what the pairs made `by` would be now. Counted once for every state of the answers."""
    return _preview(campaign, by, state_of(campaign))


def preference_pairs(campaign: Campaign, *, by: By) -> PreferencePairs:
    """Return the pairs of a campaign's counted answers, in the order of its items."""
    found = PreferencePairs()
    votes = _votes(campaign)
    labels = dict(campaign.systems.values_list("index", "label"))
    items = Item.objects.filter(campaign=campaign, kind=Item.Kind.MAIN, pk__in=votes).prefetch_related("responses")
    for item in items.order_by("index"):
        found.items += 1
        texts = [response.text.strip() for response in sorted(item.responses.all(), key=lambda r: r.index)]
        ballots = [texts[choice] if choice is not None else None for choice in votes[item.pk]]
        add = _add_majority if by == "majority" else _add_votes
        add(found, item, texts, ballots, labels)
    return found


def _votes(campaign: Campaign) -> dict[int, list[int | None]]:
    """Return the counted choices of each main item; None is "same"."""
    rows = Answer.objects.filter(
        campaign=campaign, standing=Answer.Standing.COUNTED, item__kind=Item.Kind.MAIN
    ).order_by("item", "pk")
    votes: dict[int, list[int | None]] = {}
    for item, choice in rows.values_list("item", "choice"):
        votes.setdefault(item, []).append(choice)
    return votes


def _add_majority(
    found: PreferencePairs, item: Item, texts: Sequence[str], ballots: Sequence[str | None], labels: Mapping[int, str]
) -> None:
    (winner, count), *_ = Counter(ballots).most_common()
    if 2 * count <= len(ballots):
        found.no_majority += 1
    elif winner is None:
        found.same += 1
    else:
        _add(found, item, texts, winner, {"votes": count, "of": len(ballots)}, labels)


def _add_votes(
    found: PreferencePairs, item: Item, texts: Sequence[str], ballots: Sequence[str | None], labels: Mapping[int, str]
) -> None:
    counts = Counter(ballots)
    found.same += counts.pop(None, 0)
    for winner in dict.fromkeys(text for text in texts if text in counts):
        found.repeated += counts[winner] - 1
        _add(found, item, texts, winner, {"votes": counts[winner], "of": len(ballots)}, labels)


def _add(
    found: PreferencePairs, item: Item, texts: Sequence[str], winner: str, votes: Mapping[str, int],
    labels: Mapping[int, str],
) -> None:  # fmt: skip
    others = [text for text in dict.fromkeys(texts) if text != winner]
    if not others:
        found.no_other_text += 1
    messages = item.messages or [{"role": "user", "content": item.prompt}]
    for other in others:
        meta = {
            "item": item.number, **votes, "chosen_system": labels.get(texts.index(winner)),
            "rejected_system": labels.get(texts.index(other)),
        }  # fmt: skip
        found.rows.append(
            {"prompt": messages, "chosen": _turn(winner), "rejected": _turn(other), "root": item.root, "meta": meta}
        )


def _turn(text: str) -> list[dict[str, str]]:
    """Return a response as a message, so that no text is taken for a transcript."""
    return [{"role": "assistant", "content": text}]


def pair_lines(pairs: PreferencePairs) -> Iterator[str]:
    """Yield the pairs as JSON lines in the layout that the importers call `preference`."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in pairs.rows)


def datasets_of(campaign: Campaign, user: User) -> list[Dataset]:
    """Return the preference datasets that were made of a campaign and that this person may see, the latest first."""
    exported = AuditEntry.objects.filter(
        action="exported", kind="campaign", number=campaign.pk, details__what="preferences"
    )
    made = [details["dataset"] for details in exported.values_list("details", flat=True)]
    return list(Dataset.objects.visible_to(user).filter(pk__in=made).select_related("stage").order_by("-created"))


def make_preference_dataset(*, campaign: Campaign, owner: User, name: str, by: By) -> tuple[Dataset, PreferencePairs]:
    """Write the pairs as an upload and ask a worker to import it. Raises UserError when there are none or the name is taken."""
    pairs = preference_pairs(campaign, by=by)
    if not pairs.rows:
        message = (
            f"the {pairs.items:,} rated tasks of {campaign.name!r} give no pair {_WORDS[by]}: {pairs.same:,} say “same”, "
            f"{pairs.no_majority:,} have no majority; wait for more answers, or choose the other way of making pairs"
        )
        raise UserError(message)
    digest = _kept(pairs)
    with transaction.atomic():
        dataset = request_dataset_import(
            owner=owner,
            name=name,
            kind=Dataset.Kind.PREFERENCE,
            task=campaign.task,
            config=_import_config(pairs),
            upload_digest=digest,
            source=f"human choices of the campaign {campaign.name}, {_WORDS[by]}"[:_LONGEST_SOURCE],
            licence=campaign.dataset.licence if campaign.dataset else "",
        )
        # Prompts of a private campaign are not shown to everybody by way of what was made from it.
        dataset.shared = campaign.shared
        dataset.save(update_fields=["shared"])
        record(owner, "exported", campaign, what="preferences", by=by, dataset=dataset.pk, pairs=len(pairs.rows))
    return dataset, pairs


_WORDS = {"majority": "by majority", "votes": "by vote"}


def _import_config(pairs: PreferencePairs) -> dict[str, Any]:
    if not all(row["root"] for row in pairs.rows):
        return {"layout": "preference"}  # prompts without a known conversation: the importer finds their roots
    columns = ("prompt", "chosen", "rejected", "root")
    return {"layout": "preference", "mapping": {name: name for name in columns}, "keep_roots": True}


def _kept(pairs: PreferencePairs) -> str:
    staging = store().staging()
    with (staging / _FILE).open("w", encoding="utf-8") as file:
        file.writelines(pair_lines(pairs))
    return store().commit(staging, kind="upload")
