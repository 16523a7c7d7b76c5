"""Import preference data, SFT data and prompts from files: good rows kept, bad ones listed, none lost.

`rows in = rows kept + rows rejected` holds for every import. Files are streamed; what grows with the number of
rows is a 16-byte digest of each, to find duplicates. Must not import torch, transformers or datasets.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from rso_core.artifacts import ROWS, Row, iterate_rows, write_rows
from rso_core.errors import UserError
from rso_core.layouts import LAYOUTS, Draft, LayoutName, Reading, UnknownLayoutError, detect, drafts
from rso_core.readers import Source
from rso_core.records import DECODER, REASONS, Limits, Record, RowError, inspect
from rso_core.vocabulary import (
    COLUMNS,
    DatasetKind,
    canonical_json,
    conversation_root,
    prompt_id,
    text_digest,
    transcript,
)

__all__ = ["REJECTS", "Limits", "Options", "import_file", "import_files", "import_records", "import_sft_from", "schema"]

REJECTS = "rejects.jsonl"
OnProgress = Callable[[int, int], None]  # bytes read so far, bytes in all

_RESPONSES: dict[DatasetKind, tuple[str, ...]] = {
    "preference": ("chosen", "rejected"),
    "sft": ("target",),
    "prompts": (),
}
_FAILED_SHOWN = 3
_UNRECOGNISED = 20  # records of no known layout before the first that has one


@dataclass(frozen=True)
class Options:
    """How to read a source. `layout` auto: told from the first readable record.

    `keep_roots`: the mapped column `root` holds roots of rows that were imported before, and stays as it is.
    """

    kind: DatasetKind
    layout: LayoutName = "auto"
    mapping: Mapping[str, Any] = field(default_factory=dict)
    all_ranks: bool = False
    keep_roots: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        _refuse_unknown("kind", self.kind, tuple(COLUMNS))
        _refuse_unknown("layout", self.layout, LAYOUTS)
        known = ("prompt", "chosen", "rejected", "target", "root", "meta")
        for ours, theirs in self.mapping.items():
            _refuse_unknown("a column mapping's name", ours, known)
            listed = isinstance(theirs, list | tuple) and all(isinstance(name, str) for name in theirs)
            if not (listed if ours == "meta" else isinstance(theirs, str)):
                message = f"the column mapping of `{ours}` must be {'a list of column names' if ours == 'meta' else 'a column name'}, received {theirs!r}"
                raise UserError(message)

    def layout_for(self, record: Mapping[str, Any]) -> LayoutName:
        """Return the layout to use, given the first record. Raises UserError when it cannot make rows of this kind."""
        layout = self.layout if self.layout != "auto" else self._told_by(record)
        if layout in {"preference": ("sft", "prompts"), "sft": ("prompts",), "prompts": ()}[self.kind]:
            message = (
                f"the layout {layout} holds no {' and '.join(_RESPONSES[self.kind])}, so it cannot become a dataset of "
                f"kind {self.kind}; import it as kind {layout}, or choose another layout or column mapping"
            )
            raise UserError(message)
        return layout

    def _told_by(self, record: Mapping[str, Any]) -> LayoutName:
        named = {ours for ours, theirs in self.mapping.items() if theirs} & {"prompt", "chosen", "target"}
        if not named:
            return detect(record, self.kind)
        return "preference" if "chosen" in named else self.kind


def _refuse_unknown(what: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        message = f"{what} must be one of {', '.join(known)}, received {value!r}"
        raise UserError(message)


def schema(kind: DatasetKind) -> pa.Schema:
    """Return the Arrow schema of imported rows."""
    return pa.schema([(name, pa.int64() if name == "row_id" else pa.string()) for name in COLUMNS[kind]])


def import_file(
    path: Path, out_dir: Path, options: Options, *, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Import one file; see `import_files`."""
    return import_files([path], out_dir, options, on_progress=on_progress)


def import_files(
    paths: Sequence[Path], out_dir: Path, options: Options, *, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Write the rows of `paths` to `rows.arrow` and the rejected ones to `rejects.jsonl` in `out_dir`; return counts.

    Counts: `rows_in`, `rows_kept`, `rows_rejected`, `rejected` by code. Records of several files are numbered on.
    Raises UserError when a file is damaged, beyond the limits, of no known layout, or not one row can be kept.
    """
    sources = [Source(path, options.limits) for path in paths]
    return _Importer(options, out_dir).run(_records(sources, on_progress), sources)


def import_records(records: Iterable[Mapping[str, Any]], out_dir: Path, options: Options) -> dict[str, Any]:
    """Import records that a program makes; like `import_files` otherwise."""
    numbered = (Record(number, record, record) for number, record in enumerate(records, start=1))
    return _Importer(options, out_dir).run(numbered, [])


def import_sft_from(files: Sequence[Path], out_dir: Path, limits: Limits | None = None) -> dict[str, Any]:
    """Make SFT rows of the chosen replies of imported preference rows; of ranked trees only the rank-0 replies."""
    options = Options(kind="sft", layout="preference", limits=limits or Limits())
    return _Importer(options, out_dir).run_drafts(_chosen(files), "chosen replies")


def _chosen(files: Sequence[Path]) -> Iterator[tuple[Record, Draft | RowError]]:
    for row in iterate_rows(files):
        record = Record(row["row_id"], row, row)
        if json.loads(row["meta"]).get("chosen_rank", 0) != 0:
            yield record, RowError(code="not_best")
        else:
            yield record, Draft(json.loads(row["messages"]), row["chosen"], meta=row["meta"], root=row["root"])


def _records(sources: Sequence[Source], on_progress: OnProgress | None) -> Iterator[Record]:
    total, read, offset = sum(source.size for source in sources), 0, 0
    for source in sources:
        last = 0
        for record in source.records():
            last = record.number
            yield Record(offset + record.number, record.value, record.raw)
            if on_progress is not None and record.number % 1000 == 0:
                on_progress(read + source.position, total)
        offset, read = offset + last, read + source.size
    if on_progress is not None:
        on_progress(total, total)


class _Importer:
    """Checks drafts, writes rows and rejects, counts both."""

    def __init__(self, options: Options, out_dir: Path) -> None:
        self._options, self._out = options, out_dir
        self._kept = self._meta_dropped = 0
        self._rejected: Counter[str] = Counter()
        self._first: list[str] = []
        self._seen: set[bytes] = set()
        self._prompts: set[bytes] = set()
        self._roots: set[bytes] = set()
        self._layout: LayoutName | None = None
        self._unknown: UnknownLayoutError | None = None

    def run(self, records: Iterable[Record], sources: Sequence[Source]) -> dict[str, Any]:
        summary = self.run_drafts(self._drafts(records), None)
        return {
            **summary,
            "layout": self._layout or self._options.layout,
            "formats": sorted({source.format for source in sources}),
            "decoded_bytes": sum(source.decoded_bytes for source in sources),
            "blank_lines": sum(source.blank_lines for source in sources),
        }

    def run_drafts(self, items: Iterable[tuple[Record, Draft | RowError]], layout: str | None) -> dict[str, Any]:
        with (self._out / REJECTS).open("w", encoding="utf-8") as rejects:
            rows = self._rows(items, rejects)
            write_rows(self._out / ROWS, rows, schema(self._options.kind), batch_size=1024)
        rejected = self._rejected.total()
        if not self._kept:
            self._refuse_nothing(rejected)
        return {
            "kind": self._options.kind,
            "layout": layout,
            "rows_in": self._kept + rejected,
            "rows_kept": self._kept,
            "rows_rejected": rejected,
            "rejected": dict(sorted(self._rejected.items())),
            "reasons": {code: REASONS[code] for code in sorted(self._rejected)},
            "prompts": len(self._prompts),
            "roots": len(self._roots),
            "meta_dropped": self._meta_dropped,
        }

    def _refuse_nothing(self, rejected: int) -> None:
        if not rejected:
            message = "the source holds no rows; check that the right file was chosen"
            raise UserError(message)
        if self._layout is None and self._unknown is not None:
            raise self._unknown
        shown = "; ".join(self._first)
        message = (
            f"not one of the {rejected} rows can be kept. The first: {shown}. Check the file, its kind "
            f"({self._options.kind}), its layout ({self._layout or self._options.layout}) and the column mapping"
        )
        raise UserError(message)

    def _drafts(self, records: Iterable[Record]) -> Iterator[tuple[Record, Draft | RowError]]:
        options = self._options
        reading = Reading(options.kind, options.mapping, options.all_ranks)
        for record in records:
            problem = self._problem(record.value)
            if problem is not None:
                yield record, problem
                continue
            if self._layout is None and not self._recognise(record.value):
                yield record, RowError(code="unknown_layout", detail=", ".join(map(repr, record.value))[:200])
                continue
            yield from zip(
                itertools.repeat(record), drafts(record.value, cast("LayoutName", self._layout), reading), strict=False
            )

    def _recognise(self, record: Mapping[str, Any]) -> bool:
        """Settle the layout by this record; return whether that was possible. Raises UserError after too many."""
        try:
            self._layout = self._options.layout_for(record)
        except UnknownLayoutError as error:
            self._unknown = self._unknown or error
            if self._rejected["unknown_layout"] >= _UNRECOGNISED - 1:
                raise self._unknown from None
        return self._layout is not None

    def _problem(self, value: Any) -> RowError | None:
        if isinstance(value, RowError):
            return value
        try:
            inspect(value, self._options.limits)
        except RowError as error:
            return error
        return (
            None
            if isinstance(value, dict)
            else RowError(code="wrong_type", detail="a record must be an object with named values")
        )

    def _rows(self, items: Iterable[tuple[Record, Draft | RowError]], rejects: IO[str]) -> Iterator[Row]:
        for record, draft in items:
            if self._kept + self._rejected.total() >= self._options.limits.rows:
                message = f"the source holds more than {self._options.limits.rows:,} rows, the limit of an import; split it and import each part"
                raise UserError(message)
            try:
                if isinstance(draft, RowError):
                    raise draft
                row = self._row(record.number, draft)
            except RowError as error:
                self._reject(record, error, rejects)
            else:
                self._kept += 1
                yield row

    def _reject(self, record: Record, error: RowError, rejects: IO[str]) -> None:
        self._rejected[error.code] += 1
        reason = str(error).encode("utf-8", "replace").decode()
        if len(self._first) < _FAILED_SHOWN:
            self._first.append(f"line {record.number}: {reason}")
        line = {"line": record.number, "code": error.code, "reason": reason, "excerpt": record.excerpt()}
        rejects.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _row(self, number: int, draft: Draft) -> Row:
        """Return the checked row of a draft. Raises RowError."""
        kind = self._options.kind
        self._check_texts(draft)
        prompt = transcript(draft.messages)
        responses = [draft.chosen, draft.rejected][: len(_RESPONSES[kind])]
        self._refuse_seen([prompt, *responses])
        root = conversation_root(draft.messages) if draft.root is None else self._given_root(draft.root)
        row = {
            "row_id": number,
            "prompt_id": prompt_id(prompt),
            "root": root,
            "prompt": prompt,
            "messages": json.dumps(draft.messages, ensure_ascii=False),
            "meta": self._meta(draft.meta),
            **dict(zip(_RESPONSES[kind], responses, strict=True)),
        }
        self._prompts.add(bytes.fromhex(cast("str", row["prompt_id"])))
        self._roots.add(root.encode())
        return row

    def _given_root(self, root: str) -> str:
        # Derived rows carry their root as it is.
        return root if self._layout is None or self._options.keep_roots else text_digest(root)

    def _check_texts(self, draft: Draft) -> None:
        kind, limit = self._options.kind, self._options.limits.field_characters
        if not any(message["content"].strip() for message in draft.messages if message["role"] == "user"):
            raise RowError(code="empty", detail="the prompt")
        texts = {"the prompt": "".join(message["content"] for message in draft.messages)}
        texts |= dict(zip(_RESPONSES[kind], (draft.chosen, draft.rejected), strict=False))
        for name, text in texts.items():
            if not text.strip():
                raise RowError(code="empty", detail=name)
            if len(text) > limit:
                raise RowError(code="too_long", detail=f"{name} has {len(text):,} characters, the limit is {limit:,}")
        if kind == "preference" and draft.chosen == draft.rejected:
            raise RowError(code="same_responses")

    def _refuse_seen(self, texts: Sequence[str]) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for text in texts:
            data = text.encode()
            digest.update(len(data).to_bytes(8))
            digest.update(data)
        key = digest.digest()
        if key in self._seen:
            raise RowError(code="duplicate")
        self._seen.add(key)

    def _meta(self, meta: Mapping[str, Any] | str) -> str:
        """Return what is kept beside the row as JSON; columns beyond the limit are left out and counted."""
        if isinstance(meta, str):
            return self._checked_meta(meta)
        limit, kept, size = self._options.limits.meta_bytes, {}, 2
        for name, value in meta.items():
            try:
                size += len(canonical_json({name: value}).encode())
            except (TypeError, ValueError):  # a date, a decimal: nothing JSON has
                size += limit
            if size > limit:
                self._meta_dropped += 1
                break
            kept[name] = value
        return canonical_json(kept)

    def _checked_meta(self, meta: str) -> str:
        if len(meta) > self._options.limits.field_characters:
            raise RowError(code="too_long", detail="meta")
        try:
            value = DECODER.decode(meta)
            inspect(value, self._options.limits)
            return canonical_json(value)
        except (json.JSONDecodeError, RecursionError, ValueError) as error:
            raise RowError(code="wrong_type", detail=f"`meta` must be a JSON object ({type(error).__name__})") from None
