"""Read records from JSONL, JSON, CSV and Parquet files, plain or gzipped, with bounded memory.

A reader yields `Record`s: a value, or the reason why this one cannot be used. Nothing that a file says about
itself (name, footer, sizes) is trusted: bytes are counted after decoding. One bad record never ends an import;
a file that is damaged as a whole, or larger than the limits, is a UserError.
"""

import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet

from rso_core.errors import UserError

Format = Literal["jsonl", "json", "csv", "tsv", "parquet"]

# Why a row is not kept: stable code and sentence. A row's own detail is added to the sentence.
REASONS: dict[str, str] = {
    "invalid_utf8": "the text is not valid UTF-8",
    "nul": "the text holds a NUL character",
    "lone_surrogate": "the text holds half of a surrogate pair, which is no character",
    "not_finite": "a number is NaN or infinite",
    "huge_integer": "an integer does not fit into 64 bits",
    "invalid_json": "the record is not valid JSON",
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

_CHUNK = 1 << 20
_PARQUET_ROWS = 64  # rows decoded at once: bounds what a hostile dictionary page can blow up
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


class Source:
    """An opened file: its format, how far it has been read, how much was decoded."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.size = path.stat().st_size
        self.format = format_of(path)
        self.decoded_bytes = self.blank_lines = 0
        self._position: Callable[[], int] = lambda: 0

    @property
    def position(self) -> int:
        """Return how many bytes of the file on disk have been read."""
        return min(self._position(), self.size)

    def spend(self, count: int) -> None:
        """Count decoded bytes. Raises UserError beyond the budget."""
        self.decoded_bytes += count
        if self.decoded_bytes > self.limits.decoded_bytes:
            message = (
                f"{self.path.name} holds more than {self.limits.decoded_bytes:,} bytes once decoded, the limit of an "
                f"import (its size on disk is {self.size:,}); split it into smaller files and import each"
            )
            raise UserError(message)

    def records(self) -> Iterator[Record]:
        """Yield every record. Raises UserError when the file is damaged or larger than the limits."""
        try:
            if self.format == "parquet":
                yield from self._parquet()
            else:
                with self.path.open("rb") as raw:
                    self._position = raw.tell
                    yield from self._text(raw)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            message = f"{self.path.name} is a damaged gzip file ({error}); compress it again, or upload it uncompressed"
            raise UserError(message) from error

    def _text(self, raw: IO[bytes]) -> Iterator[Record]:
        file: Any = gzip.GzipFile(fileobj=raw) if _is_gzip(self.path) else raw
        if self.format == "json" and _first_byte(file) == b"[":
            return self._json_array(file)
        file.seek(0)
        if self.format in {"csv", "tsv"}:
            return self._csv(file)
        return self._json_lines(file)

    def _lines(self, file: IO[bytes]) -> Iterator[tuple[int, bytes, bool]]:
        """Yield (number, line without its end, whether it was cut at the limit)."""
        limit, number = self.limits.line_bytes, 0
        while line := file.readline(limit + 1):
            number += 1
            self.spend(len(line))
            cut = len(line) > limit and not line.endswith(b"\n")
            rest = line
            while cut and rest and not rest.endswith(b"\n"):
                rest = file.readline(_CHUNK)
                self.spend(len(rest))
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield number, line.rstrip(b"\r\n"), cut

    def _json_lines(self, file: IO[bytes]) -> Iterator[Record]:
        for number, line, cut in self._lines(file):
            if cut:
                detail = f"line of more than {self.limits.line_bytes:,} bytes"
                yield Record(number, RowError(code="too_long", detail=detail), line)
            elif line.strip():
                yield Record(number, _parse_line(line), line)
            else:
                self.blank_lines += 1

    def _json_array(self, file: IO[bytes]) -> Iterator[Record]:
        return _ArrayReader(self, file).records()

    def _csv(self, file: IO[bytes]) -> Iterator[Record]:
        return _CsvReader(self, file).records()

    def _parquet(self) -> Iterator[Record]:
        try:
            with pa.parquet.ParquetFile(self.path, buffer_size=_CHUNK, pre_buffer=False) as file:
                total = max(1, file.metadata.num_rows)
                done = 0
                self._position = lambda: self.size * min(done, total) // total
                for batch in file.iter_batches(batch_size=_PARQUET_ROWS, use_threads=False):
                    self.spend(batch.nbytes)
                    yield from _batch_records(batch, done)
                    done += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            message = f"{self.path.name} cannot be read as Parquet ({error}); write it again and import that"
            raise UserError(message) from error


def format_of(path: Path) -> Format:
    """Return the format of a file, from its ending or, failing that, its first byte. Raises UserError."""
    endings = {"jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "csv": "csv", "tsv": "tsv", "parquet": "parquet"}
    name = path.name.lower().removesuffix(".gz")
    known = endings.get(name.rpartition(".")[2]) if "." in name else None
    if known is not None:
        return known  # type: ignore[return-value] # the values of `endings` are formats
    with path.open("rb") as raw:
        if raw.read(4) == b"PAR1":
            return "parquet"
        raw.seek(0)
        file: Any = gzip.GzipFile(fileobj=raw) if _is_gzip(path) else raw
        try:
            first = _first_byte(file)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            first = b""
    if first in {b"{", b"["}:
        return "json"
    message = f"{path.name} is in no known format: give it the ending .jsonl, .json, .csv, .tsv or .parquet (the text formats may be gzipped: .gz)"
    raise UserError(message)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _first_byte(file: IO[bytes]) -> bytes:
    """Return the first byte that is neither white space nor a byte order mark; leaves the file at its start."""
    start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    file.seek(0)
    return start


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= 20 else _HUGE  # noqa: PLR2004 - digits and sign of 64 bits


# Numbers that are no numbers become values that `inspect` refuses, so that the decoder still finds the record's end.
_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=float)


def _parse_line(line: bytes) -> Any:
    try:
        return _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RowError(code="invalid_utf8", detail=f"byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return RowError(code="invalid_json", detail=f"{error.msg} at character {error.pos + 1}")
    except RecursionError:
        return RowError(code="too_deep")


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


_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_SPACE = re.compile("[ \t\r\n\ufeff]*")
_NEXT_OBJECT = re.compile(r"\}\s*,\s*(?=\{)")


class _ArrayReader:
    """Reads a JSON array element by element through a buffer that holds little more than one of them."""

    def __init__(self, source: Source, file: IO[bytes]) -> None:
        import codecs

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
                value, end = _DECODER.raw_decode(self._buffer, self._at)
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
        problem = RowError(code="invalid_utf8") if _ESCAPED_BYTE.search(text) else None
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


class _CsvReader:
    """Reads CSV records as dicts of texts; a record may span lines."""

    def __init__(self, source: Source, file: IO[bytes]) -> None:
        self._source, self._file = source, file
        self._overlong = False

    def _text_lines(self) -> Iterator[str]:
        for _, line, cut in self._source._lines(self._file):  # noqa: SLF001 - one reader in two classes
            self._overlong = self._overlong or cut
            yield line.decode("utf-8", "surrogateescape") + "\n"

    def records(self) -> Iterator[Record]:
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
        if any(_ESCAPED_BYTE.search(cell) for cell in cells if not cell.isascii()):
            return RowError(code="invalid_utf8")
        if len(cells) != len(header):
            return RowError(code="wrong_columns", detail=f"{len(cells)} instead of {len(header)}")
        return dict(zip(header, cells, strict=True))


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _batch_records(batch: pa.RecordBatch, done: int) -> Iterator[Record]:
    try:
        values: list[Any] = batch.to_pylist()
    except (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError):
        values = [_parquet_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
    for index, value in enumerate(values):
        yield Record(done + index + 1, value, value)


def _parquet_row(row: pa.RecordBatch) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return RowError(code="invalid_utf8")
    except (pa.ArrowException, ValueError, OverflowError) as error:
        return RowError(code="wrong_type", detail=str(error)[:200])
