"""Downloads: rows as CSV that no spreadsheet executes, and as JSON lines."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.http import StreamingHttpResponse

# A cell that begins with one of these is a formula to a spreadsheet; some fold the full-width signs = + - @.
_FORMULA_STARTS = (*"=+-@\t\r\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def safe_cell(value: Any) -> Any:
    """Return a cell that a spreadsheet shows as it is: text that would be a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


class _Echo:
    """A file that returns what is written to it."""

    def write(self, text: str) -> str:
        return text


def csv_lines(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yield a header and the rows as lines of CSV."""
    writer = csv.writer(_Echo())
    yield "\ufeff" + writer.writerow(columns)  # Excel takes UTF-8 for Latin-1 without the mark
    for row in rows:
        yield writer.writerow([safe_cell(row.get(name, "")) for name in columns])


def download(lines: Iterable[str], *, name: str, content_type: str) -> StreamingHttpResponse:
    """Return lines as a file that the browser saves and never shows as a page."""
    safe_name = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "_" for letter in name
    )
    response = StreamingHttpResponse(lines, content_type=f"{content_type}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{safe_name}"'
    response["X-Content-Type-Options"] = "nosniff"
    return response
