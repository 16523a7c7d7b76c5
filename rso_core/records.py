"""A record of a source, the limits it must keep, and the reasons for which it is rejected."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

# Why a row is not kept: stable code and sentence. A row's own detail is added to the sentence.
REASONS: dict[str, str] = {
    "invalid_utf8": "the text is not valid UTF-8",
    "nul": "the text holds a NUL character",
    "lone_surrogate": "the text holds half of a surrogate pair, which is no character",
    "not_finite": "a number is NaN or infinite",
    "huge_integer": "an integer does not fit into 64 bits",
    "invalid_json": "the record is not valid JSON",
    "repeated_name": "an object has two values of one name, and no rule says which of them counts",
    "too_long": "a line or field is longer than the limit",
    "too_deep": "the record is nested too deeply",
    "wrong_columns": "the record has another number of columns than the header",
    "wrong_type": "a value has the wrong type",
    "missing_column": "a column is missing",
    "unknown_layout": "the record has none of the known layouts; its columns are",
    "empty": "a text is empty",
    "same_responses": "chosen and rejected are the same text",
    "prefix_differs": "chosen and rejected do not continue the same dialogue",
    "prompt_differs": "the responses continue another dialogue than the prompt",
    "duplicate": "an equal row came before",
    "no_choice": "the choice names none of the summaries",
    "no_rank": "the reply carries no rank",
    "equal_rank": "the two replies have the same rank",
    "deleted": "the message was deleted by its authors, and with it what follows it",
    "not_best": "only the rank-0 reply of a ranked prompt becomes a target",
}

_HUGE = 1 << 80


@dataclass(frozen=True)
class Limits:
    """Bounds of one import. The totals end it; the others cost the row that breaks them."""

    decoded_bytes: int = 8 << 30
    rows: int = 2_000_000
    line_bytes: int = 16 << 20
    field_characters: int = 200_000
    depth: int = 100
    meta_bytes: int = 4096


@dataclass
class RowError(Exception):
    """One row cannot be used. `code` is a key of `REASONS`."""

    code: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{REASONS[self.code]}: {self.detail}" if self.detail else REASONS[self.code]


@dataclass(frozen=True)
class Record:
    """A record of the source. `number`: line (JSONL, CSV) or position (JSON array, Parquet), from 1."""

    number: int
    value: Any
    raw: Any = ""

    def excerpt(self) -> str:
        """Return the start of the record for people: printable, at most 200 characters."""
        text = self.raw if isinstance(self.raw, bytes | str) else str(self.raw)
        shown = text[:400].decode("utf-8", "replace") if isinstance(text, bytes) else text[:400]
        return "".join(c if c.isprintable() else " " for c in shown)[:200]


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else _HUGE  # noqa: PLR2004 - digits and sign of 64 bits


class _Repeating(dict[str, Any]):
    """An object of which a value was lost, because another one with its name followed."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    return value if len(value) == len(pairs) else _Repeating(Counter(name for name, _ in pairs))


# What is no value becomes one that `inspect` refuses, so that the decoder still finds the record's end.
DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=float, object_pairs_hook=_object)


# Bytes that are no UTF-8, as the error handler `surrogateescape` decodes them.
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def inspect(value: Any, limits: Limits) -> None:
    """Raise RowError when a record holds text or numbers that nothing downstream can carry, or is nested too deeply."""
    todo = [(value, 1)]
    while todo:
        item, depth = todo.pop()
        if isinstance(item, str):
            _inspect_text(item)
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise RowError(code="not_finite")
        elif isinstance(item, int):
            if not -(1 << 63) <= item < 1 << 63:
                raise RowError(code="huge_integer")
        elif isinstance(item, _Repeating):
            raise RowError(code="repeated_name", detail=next(name for name, count in item.items() if count > 1)[:100])
        elif isinstance(item, dict | list):
            if depth > limits.depth:
                raise RowError(code="too_deep", detail=f"more than {limits.depth} levels")
            children = [*item.keys(), *item.values()] if isinstance(item, dict) else item
            todo.extend((child, depth + 1) for child in children)


def _inspect_text(text: str) -> None:
    if "\x00" in text:
        raise RowError(code="nul")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(code="lone_surrogate", detail=f"U+{ord(text[error.start]):04X}") from None
