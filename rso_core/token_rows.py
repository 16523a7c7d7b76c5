"""Token ids of many rows as flat 32-bit numbers: four bytes a token on disk, memory-mapped, no Python object a token.

A list of Python numbers takes nine times as much. Rows are lists only while a batch uses them.
"""

import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Chunk = tuple[NDArray[np.int32], NDArray[np.int64]]  # ids of its rows; where each row starts, and where the last ends


class TokenRows(Sequence[list[int]]):
    """Rows of token ids over flat arrays, which may be mapped files; `rows[i]` is a list made at that moment."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = list(chunks)
        self.lengths: NDArray[np.int64] = np.concatenate(
            [np.zeros(0, dtype=np.int64), *(np.diff(starts) for _, starts in self._chunks)]
        )
        self._first = np.cumsum([0, *(len(starts) - 1 for _, starts in self._chunks)])

    @classmethod
    def of_column(cls, column: Any) -> "TokenRows":
        """Return the rows of a column list<int32> of an Arrow table, without a copy of what they hold."""
        chunks = ((chunk.values.to_numpy(), chunk.offsets.to_numpy().astype(np.int64)) for chunk in column.chunks)
        return cls([chunk for chunk in chunks if len(chunk[1]) > 1])

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            message = f"row {index} of {len(self)} rows"
            raise IndexError(message)
        index %= len(self)
        at = int(np.searchsorted(self._first, index, side="right")) - 1
        values, starts = self._chunks[at]
        row = index - self._first[at]
        found: list[int] = values[starts[row] : starts[row + 1]].tolist()
        return found


class TokenWriter:
    """Collects rows of token ids in a file without a name, which is gone when nobody maps it any more.

    folder: where the file lives; its disk must have four bytes a token.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - read by the rows after this returns
        self._lengths = array("q", [0])

    def append(self, ids: Sequence[int]) -> None:
        """Add a row."""
        array("i", ids).tofile(self._file)
        self._lengths.append(len(ids))

    def rows(self) -> TokenRows:
        """Return all rows, mapped; nothing can be added any more."""
        starts = np.cumsum(np.frombuffer(self._lengths, dtype=np.int64))
        self._file.flush()
        empty = starts[-1] == 0  # nothing cannot be mapped
        values = np.zeros(0, dtype=np.int32) if empty else np.memmap(self._file, dtype=np.int32, mode="r")
        self._file.close()
        return TokenRows([(values, starts)] if len(starts) > 1 else [])
