"""Read records from JSONL, JSON, CSV and Parquet files, plain or gzipped, with bounded memory.

A reader yields `Record`s: a value, or the reason why this one cannot be used. Nothing that a file says about
itself (name, footer, sizes) is trusted: bytes are counted after decoding. One bad record never ends an import;
a file that is damaged as a whole, or larger than the limits, is a UserError.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet

from rso_core.errors import UserError
from rso_core.records import DECODER, Limits, Record, RowError
from rso_core.text_readers import ArrayReader, CsvReader

Format = Literal["jsonl", "json", "csv", "tsv", "parquet"]

_CHUNK = 1 << 20
_PARQUET_ROWS = 64  # rows decoded at once: bounds what a hostile dictionary page can blow up


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
            return ArrayReader(self, file).records()
        file.seek(0)
        if self.format in {"csv", "tsv"}:
            return CsvReader(self, file).records()
        return self._json_lines(file)

    def lines(self, file: IO[bytes]) -> Iterator[tuple[int, bytes, bool]]:
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
        for number, line, cut in self.lines(file):
            if cut:
                detail = f"line of more than {self.limits.line_bytes:,} bytes"
                yield Record(number, RowError(code="too_long", detail=detail), line)
            elif line.strip():
                yield Record(number, _parse_line(line), line)
            else:
                self.blank_lines += 1

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
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: column names that are no text
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


def _parse_line(line: bytes) -> Any:
    try:
        return DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RowError(code="invalid_utf8", detail=f"byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return RowError(code="invalid_json", detail=f"{error.msg} at character {error.pos + 1}")
    except RecursionError:
        return RowError(code="too_deep")


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
