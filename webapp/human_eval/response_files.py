"""Uploaded responses of a system: a JSONL, JSON, CSV, TSV or Parquet file with a prompt and a response on each line.

Columns: `response`, and `prompt_id` or `prompt` (the exact text). A file with a line that cannot be used is refused
as a whole, with the numbers and reasons: a response that silently fell out would leave a hole in the comparison.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rso_core.artifacts import MANIFEST
from rso_core.errors import UserError
from rso_core.readers import Source
from rso_core.records import Limits, Record, RowError, inspect
from rso_core.vocabulary import prompt_id
from webapp.runs.artifacts import store

LIMITS = Limits(decoded_bytes=512 << 20, rows=200_000, line_bytes=4 << 20, field_characters=200_000)
MOST_PROBLEMS = 20  # kept and shown; the rest is counted


@dataclass
class ResponseFile:
    """What a file holds: responses by prompt id, and what is wrong with it."""

    responses: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    rows: int = 0
    repeated: int = 0  # lines that say again what an earlier one said
    _lines: dict[str, int] = field(default_factory=dict, repr=False)

    def refuse_problems(self) -> None:
        """Raise UserError with line numbers and reasons unless every line can be used."""
        if self.problem_count:
            more = self.problem_count - len(self.problems)
            rest = f"; and {more:,} more" if more else ""
            message = f"{self.problem_count:,} lines of the file cannot be used: {'; '.join(self.problems)}{rest}"
            raise UserError(message)
        if not self.responses:
            message = "the file holds no responses: give it a line with `prompt_id` (or `prompt`) and `response` for each prompt"
            raise UserError(message)

    def take(self, record: Record) -> None:
        """Keep the response of a line, or note why it cannot be used."""
        self.rows += 1
        try:
            prompt, response = _read(record.value)
            self._keep(prompt, response, record.number)
        except RowError as error:
            self._note(record.number, str(error))
        except ValueError as error:
            self._note(record.number, str(error))

    def _keep(self, prompt: str, response: str, line: int) -> None:
        if prompt not in self.responses:
            self.responses[prompt], self._lines[prompt] = response, line
        elif self.responses[prompt] == response:
            self.repeated += 1
        else:
            message = (
                f"another response to the prompt of line {self._lines[prompt]}; a system has one response to a prompt"
            )
            raise ValueError(message)

    def _note(self, line: int, reason: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"line {line}: {reason}")


def read_response_file(digest: str) -> ResponseFile:
    """Return what an uploaded file holds. Raises UserError when it is damaged or too large to be read."""
    folder = store().path(digest)
    (path,) = (path for path in folder.iterdir() if path.name != MANIFEST)
    return read_responses(path)


def read_responses(path: Path) -> ResponseFile:
    """Return what a file holds."""
    found = ResponseFile()
    for record in Source(path, LIMITS).records():
        found.take(record)
        if found.rows > LIMITS.rows:
            message = (
                f"the file has more than {LIMITS.rows:,} lines; upload only the responses to the campaign's prompts"
            )
            raise UserError(message)
    return found


def _read(value: Any) -> tuple[str, str]:
    """Return prompt id and response of a record. Raises RowError or ValueError."""
    if isinstance(value, RowError):
        raise value
    if not isinstance(value, Mapping):
        message = f"expected an object with `prompt_id` (or `prompt`) and `response`, got {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004 - like every reason of a line
    inspect(value, LIMITS)
    if "response" not in value:
        shown = ", ".join(f"`{name}`" for name in list(value)[:8]) or "none"
        message = f"the column `response` is missing; its columns are {shown}"
        raise ValueError(message)
    response = _text(value, "response")
    known = _text(value, "prompt_id") if value.get("prompt_id") not in (None, "") else ""
    if known:
        return known, response
    if value.get("prompt") in (None, ""):
        message = "both `prompt_id` and `prompt` are missing or empty; one must say which prompt it answers"
        raise ValueError(message)
    return prompt_id(_text(value, "prompt")), response


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value[name]
    if not isinstance(text, str):
        message = f"`{name}` must be text, got {'nothing' if text is None else type(text).__name__}"
        raise ValueError(message)  # noqa: TRY004 - like every reason of a line
    if "\x00" in text:
        raise RowError(code="nul", detail=f"in `{name}`")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RowError(code="lone_surrogate", detail=f"in `{name}`")
    if len(text) > LIMITS.field_characters:
        message = f"`{name}` has {len(text):,} characters; at most {LIMITS.field_characters:,} can be rated"
        raise ValueError(message)
    return text
