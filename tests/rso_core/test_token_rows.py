from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.artifacts import read_table, write_rows
from rso_core.token_rows import TokenRows, TokenWriter

ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=12)


def written(rows: list[list[int]], folder: Path) -> TokenRows:
    writer = TokenWriter(folder)
    for row in rows:
        writer.append(row)
    return writer.rows()


@given(rows=ROWS)
def test_what_is_written_is_read_back(rows: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    found = written(rows, tmp_path_factory.getbasetemp())

    assert list(found) == rows == found[:]
    assert found.lengths.tolist() == [len(row) for row in rows]
    assert list(tmp_path_factory.getbasetemp().glob("tmp*")) == []  # the file has no name


@given(rows=ROWS, size=st.integers(1, 5))
def test_columns_of_many_batches_are_read_in_place(
    rows: list[list[int]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.arrow"
    schema = pa.schema([("ids", pa.list_(pa.int32()))])
    write_rows(path, ({"ids": row} for row in rows), schema, batch_size=size)

    assert list(TokenRows.of_column(read_table([path])["ids"])) == rows


def test_a_row_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    rows = written([[1], [2, 3]], tmp_path)

    assert rows[-1] == [2, 3]
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"row {index} of 2 rows"):
            rows[index]


def test_rows_hold_four_bytes_a_token(tmp_path: Path) -> None:
    (values, starts), *others = written([[7] * 1000, [8] * 500], tmp_path)._chunks

    assert (values.dtype, values.nbytes, starts.tolist(), others) == (np.int32, 6000, [0, 1000, 1500], [])
    assert isinstance(values, np.memmap)
