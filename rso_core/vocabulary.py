"""The words every part of the project shares: prompts, responses, preference pairs, splits.

A *row* of an imported dataset is a plain dict with the columns of `COLUMNS[kind]`. Rows travel as
Arrow files (`rso_core.artifacts`). The winner always comes first: `chosen`, then `rejected`.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, TypedDict

DatasetKind = Literal["sft", "preference", "prompts"]
Task = Literal["summarization", "dialogue"]
Split = Literal["train", "validation", "test"]
Family = Literal["causal", "seq2seq"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# `row_id`: number of the source line or record, from 1. `root`: conversation root, see `conversation_root`.
# `messages`: JSON list of {"role", "content"} of the prompt. `meta`: JSON object kept with the row.
_SHARED_COLUMNS = ("row_id", "prompt_id", "root", "prompt", "messages", "meta")
COLUMNS: dict[DatasetKind, tuple[str, ...]] = {
    "preference": (*_SHARED_COLUMNS, "chosen", "rejected"),
    "sft": (*_SHARED_COLUMNS, "target"),
    "prompts": _SHARED_COLUMNS,
}


class Message(TypedDict):
    """One turn of a conversation; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


def text_digest(text: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of `text`: an identifier, not a secret."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def transcript(messages: Sequence[Message]) -> str:
    """Return the canonical prompt text of a conversation.

    A single user turn is its own text. Several turns are written as "Human: …" and "Assistant: …"
    (and "System: …") separated by blank lines.
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    speakers = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "\n\n".join(f"{speakers[m['role']]}: {m['content']}" for m in messages)


def prompt_id(prompt: str) -> str:
    """Return the identifier of a prompt: rows with the same prompt text share it."""
    return text_digest(prompt)


def conversation_root(messages: Sequence[Message]) -> str:
    """Return the identifier of the conversation that a prompt belongs to: its first user turn.

    A ranked tree and a transcript of the same conversation get the same root, so that no conversation
    leaks across splits even when two datasets hold it in different layouts.
    """
    first = next((m["content"] for m in messages if m["role"] == "user"), messages[0]["content"])
    return text_digest(" ".join(first.split()))


def split_of(root: str, *, seed: int, validation_fraction: float, test_fraction: float) -> Split:
    """Return the split of a conversation root: a pure function, the same for every dataset of a run."""
    digest = hashlib.sha256(f"{seed}:{root}".encode()).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    if position < test_fraction:
        return "test"
    if position < test_fraction + validation_fraction:
        return "validation"
    return "train"


def canonical_json(value: object) -> str:
    """Return `value` as JSON with sorted keys and no spaces: the form that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
