"""Words in the texts of an artifact's rows."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import pyarrow.compute as pc

from rso_core.artifacts import read_table
from webapp.runs.artifacts import store


def rows_with(digest: str, columns: Sequence[str], words: str) -> Any:
    """Return for each row of an artifact whether `words` stands in one of its columns, whatever its case."""
    table = read_table(store().files(digest), columns)
    return reduce(pc.or_, (pc.match_substring(table[name], words, ignore_case=True) for name in columns))
