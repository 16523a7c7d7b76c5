"""What raters type, made fit to be stored: bounded, and without what PostgreSQL cannot hold."""

import json
from collections.abc import Mapping
from typing import Any

from rso_core.errors import UserError
from webapp.runs.text import finite, storable

LONGEST_TEXT = 10_000  # characters of a reason or a note
_LARGEST_DRAFT = 50_000


def bounded_text(text: str, what: str) -> str:
    """Return `text` as it can be stored. Raises UserError when it is too long: nothing is cut silently."""
    if len(text) > LONGEST_TEXT:
        message = f"the {what} may have {LONGEST_TEXT:,} characters and has {len(text):,}; shorten it and send it again"
        raise UserError(message)
    return storable(text)


def cleaned_draft(draft: Mapping[str, Any]) -> str:
    """Return a draft as JSON that PostgreSQL can hold. Raises UserError when it is too large or cannot be written."""
    try:
        written = json.dumps(_cleaned(draft), allow_nan=False)
    except (TypeError, RecursionError) as error:
        message = "the draft holds something that is not JSON; send numbers, texts, lists and objects only"
        raise UserError(message) from error
    if len(written) > _LARGEST_DRAFT:
        message = f"the draft may have {_LARGEST_DRAFT:,} characters and has {len(written):,}; shorten the reason"
        raise UserError(message)
    return written


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Mapping):
        return {storable(str(name)): _cleaned(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return value
