import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.runs.exports import csv_lines, download, safe_cell


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20A"]
)
def test_text_that_would_be_a_formula_is_shown_as_it_is(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["plain", "", "1=1", 5, -5, 2.5, None])
def test_everything_else_stays(value: object) -> None:
    assert safe_cell(value) == value


@given(st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.integers()}), max_size=5))
def test_a_spreadsheet_reads_back_what_was_written(rows: list[dict[str, object]]) -> None:
    written = "".join(csv_lines(rows, ["a", "b"]))
    assert written.startswith("\ufeff")
    read = list(csv.DictReader(io.StringIO(written.removeprefix("\ufeff"), newline="")))
    assert [(row["a"], row["b"]) for row in read] == [(safe_cell(row["a"]), str(row["b"])) for row in rows]


@pytest.mark.parametrize("name", ['x"; filename=evil', "a\r\nSet-Cookie: b", "../../etc/passwd", "ünïcode 名"])
def test_a_download_is_saved_under_a_harmless_name(name: str) -> None:
    response = download(["line"], name=name, content_type="text/csv")
    header = response["Content-Disposition"]
    assert header.startswith('attachment; filename="')
    assert not set(header[22:-1]) & set('"\r\n/; ')
    assert response["X-Content-Type-Options"] == "nosniff"
