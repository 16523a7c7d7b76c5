"""What the dataset page shows of an imported dataset: rows, rejects, splits. Reads artifacts, never changes them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rso_core.artifacts import Row, iterate_rows, read_table
from rso_core.run_data import assign_split
from rso_core.vocabulary import COLUMNS, SPLITS, DatasetKind
from webapp.runs.artifacts import store
from webapp.runs.text_search import rows_with

PAGE_SIZE = 10
REJECTS = "rejects.jsonl"
REJECT_COLUMNS = ("line", "code", "reason", "excerpt")
_RESPONSES: dict[str, tuple[str, ...]] = {"preference": ("chosen", "rejected"), "sft": ("target",), "prompts": ()}


@dataclass(frozen=True)
class RowPage:
    """A page of rows: those that match the search, in the order of the source."""

    rows: list[Row]
    number: int
    pages: int
    matches: int

    @property
    def previous(self) -> int:
        """Return the number of the page before."""
        return self.number - 1

    @property
    def next(self) -> int:
        """Return the number of the page after."""
        return self.number + 1


def row_page(digest: str, kind: DatasetKind, *, words: str = "", number: int = 1) -> RowPage:
    """Return a page of the rows in whose texts `words` stands, whatever its case. A number too high means the last."""
    table = read_table(store().files(digest), COLUMNS[kind])
    indices = _matching(digest, kind, words) if words else None
    matches = table.num_rows if indices is None else len(indices)
    pages = max(1, -(-matches // PAGE_SIZE))
    number = min(max(1, number), pages)
    start = (number - 1) * PAGE_SIZE
    found = table.slice(start, PAGE_SIZE) if indices is None else _rows_at(table, indices.slice(start, PAGE_SIZE))
    return RowPage([_shown(row, kind) for row in found.to_pylist()], number, pages, matches)


def _rows_at(table: pa.Table, places: pa.Array) -> pa.Table:
    """Return some rows of a table. `take` would first join the chunks of every column into one."""
    return pa.concat_tables([table.slice(0, 0), *(table.slice(place, 1) for place in places.to_pylist())])


@lru_cache(maxsize=32)  # an artifact never changes, and what was found is looked through page by page
def _matching(digest: str, kind: DatasetKind, words: str) -> Any:
    """Return the places of the rows in whose texts `words` stands."""
    return pc.indices_nonzero(rows_with(digest, ("prompt", *_RESPONSES[kind]), words))


def _shown(row: Row, kind: DatasetKind) -> Row:
    return {**row, "turns": json.loads(row["messages"]), "responses": [(name, row[name]) for name in _RESPONSES[kind]]}


def rows_as_json_lines(digest: str) -> Iterator[str]:
    """Yield every row as a line of JSON."""
    for row in iterate_rows(store().files(digest)):
        yield json.dumps(row, ensure_ascii=False) + "\n"


def rejects(digest: str) -> Iterator[dict[str, Any]]:
    """Yield the rejected rows of an import: line, code, reason, excerpt."""
    for path in store().files(digest, REJECTS):
        if path.exists():
            with path.open(encoding="utf-8") as file:
                yield from map(json.loads, file)


def rejects_as_json_lines(digest: str) -> Iterator[str]:
    """Yield every rejected row as a line of JSON."""
    for row in rejects(digest):
        yield json.dumps(row, ensure_ascii=False) + "\n"


def first_rejects(digest: str, count: int) -> list[dict[str, Any]]:
    """Return the first rejected rows of an import."""
    return list(islice(rejects(digest), count))


@dataclass(frozen=True)
class SplitCount:
    """How much of a dataset is in one split. `share` of the rows is in [0, 1]; before it come the shares up to `begin`."""

    split: str
    rows: int
    prompts: int
    roots: int
    share: float
    begin: float

    @property
    def start(self) -> float:
        """Return where the split begins in a bar of width 100."""
        return 100 * self.begin

    @property
    def width(self) -> float:
        """Return how wide the split is in a bar of width 100."""
        return 100 * self.share


@lru_cache(maxsize=64)  # an artifact never changes, and a page is often opened again
def split_counts(digest: str, *, seed: int, validation_fraction: float, test_fraction: float) -> tuple[SplitCount, ...]:
    """Return rows, prompts and conversation roots of each split, under a run's split settings."""
    settings = {"seed": seed, "validation_fraction": validation_fraction, "test_fraction": test_fraction}
    table = read_table(store().files(digest), ["prompt_id", "root"])
    per_root = table.group_by("root").aggregate([([], "count_all")])
    splits = {root: assign_split(root, settings) for root in per_root["root"].to_pylist()}
    rows = _sum_by_split(per_root["root"].to_pylist(), per_root["count_all"].to_pylist(), splits)
    pairs = table.group_by(["prompt_id", "root"]).aggregate([])
    prompts = _sum_by_split(pairs["root"].to_pylist(), [1] * pairs.num_rows, splits)
    roots = _sum_by_split(list(splits), [1] * len(splits), splits)
    total = max(1, table.num_rows)
    shares = [rows[name] / total for name in SPLITS]
    begins = [0.0, *accumulate(shares)]
    return tuple(
        SplitCount(name, rows[name], prompts[name], roots[name], share, begin)
        for name, share, begin in zip(SPLITS, shares, begins, strict=False)
    )


def _sum_by_split(roots: Sequence[str], counts: Sequence[int], splits: dict[str, Any]) -> dict[str, int]:
    sums = dict.fromkeys(SPLITS, 0)
    for root, count in zip(roots, counts, strict=True):
        sums[splits[root]] += count
    return {str(name): count for name, count in sums.items()}
