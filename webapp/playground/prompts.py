"""Prompts of imported datasets, for whoever has none of their own."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from rso_core.errors import UserError
from rso_core.vocabulary import DatasetKind, Message
from webapp.accounts.models import User
from webapp.runs.dataset_rows import row_page
from webapp.runs.models import Dataset


@dataclass(frozen=True)
class Picked:
    """A prompt of a dataset: its text, and the turns it was made of."""

    prompt: str
    messages: list[Message]
    task: str


def datasets_of(user: User) -> list[tuple[str, str]]:
    """Return (name, key) of the imported datasets that this person may see."""
    found = Dataset.objects.visible_to(user).exclude(digest="").order_by("name")
    return [(f"{dataset.name} ({dataset.get_kind_display()})", str(dataset.pk)) for dataset in found]


def pick(key: str, user: User, *, words: str = "") -> Picked:
    """Return a prompt drawn from those of a dataset in which `words` stands. Raises UserError when there is none."""
    dataset = Dataset.objects.visible_to(user).exclude(digest="").filter(pk=key).first() if key.isdecimal() else None
    if dataset is None:
        message = "choose one of the datasets, then take a prompt"
        raise UserError(message)
    kind = cast("DatasetKind", dataset.kind)
    first = row_page(dataset.digest, kind, words=words.strip())
    if not first.matches:
        message = f"no row of {dataset.name} has {words.strip()!r} in it; search for other words, or for none"
        raise UserError(message)
    number = secrets.randbelow(first.pages) + 1
    rows = first.rows if number == 1 else row_page(dataset.digest, kind, words=words.strip(), number=number).rows
    row = secrets.choice(rows)
    return Picked(row["prompt"], json.loads(row["messages"]), dataset.task)


def messages_of(prompt: str, picked: Picked | None) -> Sequence[Message]:
    """Return the turns of what was picked, or, when the text is somebody's own, one turn of a user."""
    if picked is not None and picked.prompt == prompt:
        return picked.messages
    return [{"role": "user", "content": prompt}]
