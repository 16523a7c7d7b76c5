"""Read JSON arrays and CSV record by record, going on after a bad one."""

import codecs
import csv
import json
import re
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from rso_core.errors import UserError
from rso_core.records import DECODER, ESCAPED_BYTE, Record, RowError

if TYPE_CHECKING:
    from rso_core.readers import Source

_CHUNK = 1 << 20
_SPACE = re.compile("[ \t\r\n\ufeff]*")
_NEXT_OBJECT = re.compile(r"\}\s*,\s*(?=\{)")


class ArrayReader:
    """Reads a JSON array element by element through a buffer that holds little more than one of them."""

    def __init__(self, source: "Source", file: IO[bytes]) -> None:
        self._source, self._file = source, file
        # Bytes that are no UTF-8 become surrogates, so that only their own record is lost.
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._buffer, self._at, self._ended = "", 0, False
        self._lost = False  # no further object was found after a bad one

    def _fill(self) -> bool:
        """Read more into the buffer, at least as much again as it holds; return whether there was more."""
        wanted = max(_CHUNK, len(self._buffer) - self._at)
        data = b"" if self._ended else self._file.read(wanted)
        self._source.spend(len(data))
        self._ended = self._ended or not data
        self._buffer = self._buffer[self._at :] + self._decode(data, final=self._ended)
        self._at = 0
        return bool(data)

    def _peek(self) -> str:
        """Return the next character that is not white space, "" at the end."""
        while True:
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr] # matches everywhere
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._fill():
                return ""

    def records(self) -> Iterator[Record]:
        """Yield the elements, numbered from 1; what cannot be read up to the next object is one element."""
        self._peek()
        self._at += 1  # the bracket
        number = 0
        while True:
            if self._peek() == ",":
                self._at += 1
                continue
            if self._peek() in {"]", ""}:
                break
            number += 1
            yield self._element(number)
            if self._lost:
                return
        if self._peek() != "]":
            yield Record(
                number + 1, RowError(code="invalid_json", detail="the array is not closed: the file ends in its middle")
            )
            return
        self._at += 1
        if self._peek():
            yield Record(
                number + 1,
                RowError(code="invalid_json", detail="text follows the array"),
                self._buffer[self._at :][:400],
            )

    def _element(self, number: int) -> Record:
        while True:
            try:
                value, end = DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if not self._too_long() and not self._ended:
                    self._fill()
                    continue
                code = "too_long" if self._too_long() else "invalid_json"
                return self._skip(number, RowError(code=code, detail=f"{error.msg}, skipped to the next object"))
            except RecursionError:
                return self._skip(number, RowError(code="too_deep", detail="skipped to the next object"))
            if end < len(self._buffer) or self._ended:
                break
            self._fill()  # a number may go on in the next chunk
        text = self._buffer[self._at : end]
        self._at = end
        problem = RowError(code="invalid_utf8") if ESCAPED_BYTE.search(text) else None
        return Record(number, value if problem is None else problem, text)

    def _too_long(self) -> bool:
        return len(self._buffer) - self._at > self._source.limits.line_bytes

    def _skip(self, number: int, problem: RowError) -> Record:
        """Go to the next object that follows a closed one; what lies between counts as one record."""
        excerpt = self._buffer[self._at : self._at + 400]
        while not (found := _NEXT_OBJECT.search(self._buffer, self._at)):
            self._at = max(self._at, len(self._buffer) - 64)
            if not self._fill():
                self._lost = True
                return Record(number, problem, excerpt)
        self._at = found.end()
        return Record(number, problem, excerpt)


class CsvReader:
    """Reads CSV records as dicts of texts; a record may span lines."""

    def __init__(self, source: "Source", file: IO[bytes]) -> None:
        self._source, self._file = source, file
        self._overlong = False

    def _text_lines(self) -> Iterator[str]:
        for _, line, cut in self._source.lines(self._file):
            self._overlong = self._overlong or cut
            yield line.decode("utf-8", "surrogateescape") + "\n"

    def records(self) -> Iterator[Record]:
        """Yield the records, numbered by the line they begin in. Raises UserError when the header names no columns."""
        csv.field_size_limit(self._source.limits.line_bytes)
        lines = self._text_lines()
        first = next(lines, "")
        delimiter = "\t" if self._source.format == "tsv" else (";" if "," not in first and ";" in first else ",")
        reader = csv.reader(_chain(first, lines), delimiter=delimiter)
        header = self._header(reader)
        while True:
            number, self._overlong = reader.line_num + 1, False
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(number, RowError(code="too_long", detail=str(error)))
                continue
            if not cells:
                self._source.blank_lines += 1
                continue
            yield Record(number, self._value(header, cells), cells)

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            header = [str(error)]
        if len(set(header)) != len(header) or "" in header or self._overlong:
            shown = ", ".join(header)[:300]
            message = (
                f"the first line of {self._source.path.name} must name the columns, each differently; received: {shown}"
            )
            raise UserError(message)
        return header

    def _value(self, header: list[str], cells: list[str]) -> Any:
        if self._overlong:
            return RowError(code="too_long", detail=f"line of more than {self._source.limits.line_bytes:,} bytes")
        if any(ESCAPED_BYTE.search(cell) for cell in cells if not cell.isascii()):
            return RowError(code="invalid_utf8")
        if len(cells) != len(header):
            return RowError(code="wrong_columns", detail=f"{len(cells)} instead of {len(header)}")
        return dict(zip(header, cells, strict=True))


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines
