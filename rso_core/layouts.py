"""The published layouts of preference data, read into one shape.

A layout is a function from a source record to `Draft`s. Most records are one row; a ranked tree is many: one
row for each pair of replies (or, where targets or prompts are wanted, for each of those), and one rejected row
for each reply that cannot be paired. So "rows in" of trees counts pairs and such replies, not trees.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any, Literal, cast

from rso_core.errors import UserError
from rso_core.records import RowError
from rso_core.vocabulary import DatasetKind, Message, transcript

LayoutName = Literal["auto", "hh", "oasst", "tldr", "preference", "sft", "prompts"]
LAYOUTS: tuple[LayoutName, ...] = ("auto", "hh", "oasst", "tldr", "preference", "sft", "prompts")

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip
_USED = frozenset({"prompt", "chosen", "rejected", "target", "completion", "messages", "conversations", "root", "meta"})


@dataclass(frozen=True)
class Draft:
    """A row before it is checked. `root` is the value of a mapped column, None to take the first user turn."""

    messages: list[Message]
    chosen: str = ""
    rejected: str = ""
    meta: Mapping[str, Any] | str = field(default_factory=dict)
    root: str | None = None


@dataclass(frozen=True)
class Reading:
    """How records are read. `mapping`: our column name to theirs (`meta`: a list of theirs)."""

    kind: DatasetKind
    mapping: Mapping[str, Any] = field(default_factory=dict)
    all_ranks: bool = False


Drafts = Iterator[Draft | RowError]


class UnknownLayoutError(UserError):
    """A record has none of the known layouts."""


def detect(record: Mapping[str, Any], kind: DatasetKind) -> LayoutName:  # noqa: PLR0911 - one a layout
    """Return the layout of a record. Raises UnknownLayoutError with the columns when none fits."""
    if isinstance(record.get("prompt"), dict) and "message_tree_id" in record:
        return "oasst"
    if {"info", "summaries", "choice"} <= record.keys():
        return "tldr"
    if {"chosen", "rejected"} <= record.keys():
        texts = all(isinstance(record[side], str) for side in ("chosen", "rejected"))
        if "prompt" not in record and texts and _ASSISTANT in record["chosen"]:
            return "hh"
        return "preference"
    if {"prompt", "target"} <= record.keys() or {"prompt", "completion"} <= record.keys():
        return "sft"
    if kind != "preference" and record.keys() & {"messages", "conversations"}:
        return "sft" if kind == "sft" else "prompts"
    if kind == "prompts" and "prompt" in record:
        return "prompts"
    message = (
        f"no known layout has the columns {', '.join(map(repr, record)) or '(none)'}; say which columns hold the "
        f"{' and '.join(_wanted(kind))} with a column mapping, or choose a layout"
    )
    raise UnknownLayoutError(message)


def _wanted(kind: DatasetKind) -> tuple[str, ...]:
    return {"preference": ("prompt", "chosen", "rejected"), "sft": ("prompt", "target"), "prompts": ("prompt",)}[kind]


def drafts(record: Mapping[str, Any], layout: LayoutName, reading: Reading) -> Drafts:
    """Yield the rows of a record, and the reasons of those that cannot be used."""
    try:
        yield from _READERS[layout](record, reading)
    except RowError as error:
        yield error


def _text(record: Mapping[str, Any], name: str) -> str:
    if name not in record:
        raise RowError(code="missing_column", detail=f"{name!r}; there are {', '.join(map(repr, list(record)[:20]))}")
    if not isinstance(record[name], str):
        raise RowError(code="wrong_type", detail=f"{name!r} must be text, received {_type(record[name])}")
    return cast("str", record[name])


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return "nothing (null)" if value is None else names.get(type(value), type(value).__name__)


def parse_transcript(text: str) -> list[Message]:
    r"""Return the turns of "\n\nHuman: …\n\nAssistant: …"; a last empty "Assistant:" is the cue, not a turn."""
    messages: list[Message] = []
    rest = text
    while rest:
        role, marker = ("user", _HUMAN) if rest.startswith(_HUMAN) else ("assistant", _ASSISTANT)
        if not rest.startswith(marker):
            raise RowError(
                code="wrong_type", detail="a transcript begins with a blank line and “Human:” or “Assistant:”"
            )
        ends = [end for end in (rest.find(_HUMAN, len(marker)), rest.find(_ASSISTANT, len(marker))) if end >= 0]
        end = min(ends, default=len(rest))
        messages.append({"role": role, "content": rest[len(marker) : end].strip()})
        rest = rest[end:]
    if messages and messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    return messages


def _hh(record: Mapping[str, Any], reading: Reading) -> Drafts:
    sides = [_text(record, side) for side in ("chosen", "rejected")]
    cuts = [text.rfind(_ASSISTANT) + len(_ASSISTANT) for text in sides]
    if any(cut < len(_ASSISTANT) for cut in cuts):
        raise RowError(code="wrong_type", detail="a transcript holds no “Assistant:” turn")
    prefixes = [text[:cut] for text, cut in zip(sides, cuts, strict=True)]
    if prefixes[0] != prefixes[1]:
        raise RowError(code="prefix_differs")
    chosen, rejected = (text[cut:].strip() for text, cut in zip(sides, cuts, strict=True))
    yield Draft(parse_transcript(prefixes[0]), chosen, rejected, _extra(record, reading), _root(record, reading))


def _tldr(record: Mapping[str, Any], _reading: Reading) -> Drafts:
    info, summaries, choice = (record.get(name) for name in ("info", "summaries", "choice"))
    if not isinstance(info, dict) or not isinstance(summaries, list) or len(summaries) != 2:  # noqa: PLR2004 - a pair
        raise RowError(code="wrong_type", detail="a comparison has `info` and two `summaries`")
    if isinstance(choice, bool) or choice not in {0, 1}:
        raise RowError(code="no_choice", detail=f"received {choice!r}")
    texts = [_text(item, "text").strip() if isinstance(item, dict) else "" for item in summaries]
    meta = {name: info[name] for name in ("id", "subreddit", "site") if isinstance(info.get(name), str)}
    policies = [item.get("policy") for item in summaries if isinstance(item, dict)]
    if all(isinstance(policy, str) for policy in policies):
        meta |= {"chosen_policy": policies[choice], "rejected_policy": policies[1 - choice]}
    yield Draft([{"role": "user", "content": _post(info)}], texts[choice], texts[1 - choice], meta)


def _post(info: Mapping[str, Any]) -> str:
    """Return the prompt of a TL;DR comparison: subreddit, title and post, or a news article."""
    if not info.get("post"):
        return _text(info, "article").strip()
    parts = [("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"), ("POST: ", "post")]
    return "\n\n".join(f"{label}{_text(info, name).strip()}" for label, name in parts if info.get(name))


def _oasst(record: Mapping[str, Any], reading: Reading) -> Drafts:
    first = record.get("prompt")
    if not isinstance(first, dict):
        raise RowError(code="wrong_type", detail=f"`prompt` of a tree is a message, received {_type(first)}")
    tree = record.get("message_tree_id")
    todo: list[tuple[list[Message], Mapping[str, Any]]] = [([], first)]
    while todo:
        before, node = todo.pop()
        try:
            turn = _turn(node)
            replies = _replies(node)
        except RowError as error:
            yield error
            continue
        path = [*before, turn]
        todo += [(path, reply) for reply in reversed(replies)]
        if turn["role"] == "user":
            yield from _prompt_rows(path, replies, reading, tree)


def _turn(node: Mapping[str, Any]) -> Message:
    if node.get("deleted") is True:
        raise RowError(code="deleted", detail=str(node.get("message_id", "")))
    role = _ROLES.get(str(node.get("role")))
    if role is None:
        raise RowError(
            code="wrong_type",
            detail=f"the role of a message must be prompter or assistant, received {node.get('role')!r}",
        )
    return {"role": role, "content": _text(node, "text").strip()}


def _replies(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise RowError(code="wrong_type", detail="`replies` must be a list of messages")
    return replies


def _prompt_rows(path: list[Message], replies: Sequence[Mapping[str, Any]], reading: Reading, tree: Any) -> Drafts:
    if reading.kind == "prompts":
        yield Draft(path, meta={"tree": tree})
        return
    ranked = []
    for reply in replies:
        if reply.get("deleted") is True or _ROLES.get(str(reply.get("role"))) != "assistant":
            continue  # deleted replies are listed when the walk comes to them
        rank = reply.get("rank")
        if isinstance(rank, int) and not isinstance(rank, bool):
            ranked.append((rank, str(reply.get("message_id", "")), _reply_text(reply)))
        elif len(replies) > 1 or reading.kind == "sft":
            yield RowError(code="no_rank", detail=str(reply.get("message_id", "")))
    ranked.sort(key=lambda item: item[0])
    if reading.kind == "sft":
        yield from (
            Draft(path, text, meta={"tree": tree, "chosen_id": name, "chosen_rank": rank})
            for rank, name, text in ranked
            if rank == 0
        )
        return
    for chosen, rejected in combinations(ranked, 2) if reading.all_ranks else pairwise(ranked):
        if chosen[0] == rejected[0]:
            yield RowError(code="equal_rank", detail=f"{chosen[1]} and {rejected[1]}")
            continue
        meta = {
            "tree": tree, "chosen_id": chosen[1], "chosen_rank": chosen[0],
            "rejected_id": rejected[1], "rejected_rank": rejected[0],
        }  # fmt: skip
        yield Draft(path, chosen[2], rejected[2], meta)


def _reply_text(reply: Mapping[str, Any]) -> str:
    text = reply.get("text")
    return text.strip() if isinstance(text, str) else ""  # an empty text is rejected with its pair


def _preference(record: Mapping[str, Any], reading: Reading) -> Drafts:
    columns = _mapped(record, reading)
    for name in ("chosen", "rejected"):
        if name not in columns:
            _text(columns, name)
    prompt = _messages(columns["prompt"], "prompt") if columns.get("prompt") is not None else None
    (before, chosen), (other, rejected) = (_response(columns[name], name) for name in ("chosen", "rejected"))
    if before != other:
        raise RowError(code="prefix_differs")
    if prompt is None and not before:
        raise RowError(
            code="missing_column", detail="'prompt', and the responses hold no dialogue before the last turn"
        )
    if prompt is not None and before and not _same_dialogue(prompt, before):
        raise RowError(code="prompt_differs")
    yield Draft(before or prompt or [], chosen, rejected, _extra(record, reading), _root(record, reading))


def _same_dialogue(prompt: list[Message], before: list[Message]) -> bool:
    """Return whether a prompt and the dialogue inside the responses are one; a text prompt may be its first or last turn."""
    if len(prompt) > 1:
        return prompt == before
    users = [message["content"] for message in before if message["role"] == "user"]
    return prompt[0]["content"] in {transcript(before).strip(), *users[:1], *users[-1:]}


def _messages(value: Any, name: str) -> list[Message]:
    """Return a prompt given as text, as an HH transcript, or as a list of messages."""
    if isinstance(value, str):
        if value.startswith((_HUMAN, _ASSISTANT)):
            return parse_transcript(value)
        return [{"role": "user", "content": value.strip()}]
    if not isinstance(value, list) or not value:
        raise RowError(
            code="wrong_type", detail=f"{name!r} must be text or a list of messages, received {_type(value)}"
        )
    return [_message(item, name) for item in value]


def _message(item: Any, name: str) -> Message:
    if not isinstance(item, dict):
        raise RowError(code="wrong_type", detail=f"a message in {name!r} must be an object, received {_type(item)}")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise RowError(
            code="wrong_type", detail=f"a role in {name!r} must be system, user or assistant, received {role!r}"
        )
    if not isinstance(content, str):
        raise RowError(
            code="wrong_type", detail=f"the content of a message in {name!r} must be text, received {_type(content)}"
        )
    return {"role": _ROLES[role.lower()], "content": content.strip()}


def _response(value: Any, name: str) -> tuple[list[Message], str]:
    """Return (dialogue before, response) of a response given as text, or as a dialogue that ends with it."""
    if isinstance(value, str) and not value.startswith(_HUMAN):
        return [], value.strip()
    messages = _messages(value, name)
    if messages[-1]["role"] != "assistant":
        raise RowError(code="wrong_type", detail=f"the last message of {name!r} must be the assistant's")
    return messages[:-1], messages[-1]["content"]


def _sft(record: Mapping[str, Any], reading: Reading) -> Drafts:
    columns = _mapped(record, reading)
    target = columns.get("target", columns.get("completion"))
    if target is None:
        target = columns.get("messages", columns.get("conversations"))
    if target is None:
        _text(columns, "target")
    before, text = _response(target, "target")
    prompt = columns.get("prompt")
    if prompt is None and not before:
        raise RowError(code="missing_column", detail="'prompt', and the target holds no dialogue before its last turn")
    messages = before or _messages(prompt, "prompt")
    if before and prompt is not None and not _same_dialogue(_messages(prompt, "prompt"), before):
        raise RowError(code="prompt_differs")
    yield Draft(messages, text, meta=_extra(record, reading), root=_root(record, reading))


def _prompts(record: Mapping[str, Any], reading: Reading) -> Drafts:
    columns = _mapped(record, reading)
    value = columns.get("prompt", columns.get("messages", columns.get("conversations")))
    if value is None:
        _text(columns, "prompt")
    messages = _messages(value, "prompt")
    if len(messages) > 1 and messages[-1]["role"] == "assistant":
        messages = messages[:-1]  # a full dialogue: its last reply is no part of the prompt
    yield Draft(messages, meta=_extra(record, reading), root=_root(record, reading))


def _mapped(record: Mapping[str, Any], reading: Reading) -> Mapping[str, Any]:
    """Return the record under our column names; every mapped column must be there."""
    names = {ours: theirs for ours, theirs in reading.mapping.items() if ours != "meta" and theirs}
    for ours, theirs in names.items():
        if theirs not in record:
            shown = ", ".join(map(repr, list(record)[:20]))
            raise RowError(code="missing_column", detail=f"{theirs!r}, mapped to {ours}; there are {shown}")
    return record if not names else {ours: record[theirs] for ours, theirs in names.items()}


def _root(record: Mapping[str, Any], reading: Reading) -> str | None:
    """Return the value of the mapped root column, which must be there and name something."""
    theirs = reading.mapping.get("root")
    if not theirs:
        return None
    value = record.get(theirs)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise RowError(
            code="wrong_type",
            detail=f"{theirs!r}, mapped to root, must be text or a whole number, received {_type(value)}",
        )
    return str(value)


def _extra(record: Mapping[str, Any], reading: Reading) -> Mapping[str, Any] | str:
    """Return what is kept beside the row: the mapped columns, a `meta` column as it is, or the short other ones."""
    wanted = reading.mapping.get("meta")
    if wanted:
        return {name: record[name] for name in wanted if name in record}
    meta = record.get("meta")
    if isinstance(meta, dict):
        return json.dumps(meta, ensure_ascii=False)
    if isinstance(meta, str) and meta.startswith("{"):
        return meta
    used = {theirs for theirs in reading.mapping.values() if isinstance(theirs, str)} or _USED
    return {
        name: value
        for name, value in record.items()
        if name not in used and isinstance(value, str | int | float | bool)
    }


_READERS: dict[str, Callable[[Mapping[str, Any], Reading], Drafts]] = {
    "hh": _hh,
    "oasst": _oasst,
    "tldr": _tldr,
    "preference": _preference,
    "sft": _sft,
    "prompts": _prompts,
}
