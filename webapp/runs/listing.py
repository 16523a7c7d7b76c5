"""Search and order of every list page, from the query string."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from typing import TypeVar

from django.db.models import F, Model, Q, QuerySet
from django.http import HttpRequest

_Row = TypeVar("_Row", bound=Model)


def searched(request: HttpRequest, rows: QuerySet[_Row], columns: Iterable[str]) -> QuerySet[_Row]:
    """Return the rows in which every word of ?q= stands in one of the columns, whatever its case."""
    for word in request.GET.get("q", "").replace("\x00", "").split():
        rows = rows.filter(reduce(or_, (Q(**{f"{column}__icontains": word}) for column in columns)))
    return rows


def sorted_by(request: HttpRequest, rows: QuerySet[_Row], keys: Mapping[str, str], *, default: str) -> QuerySet[_Row]:
    """Return the rows in the order of ?sort=key or ?sort=-key; unknown keys mean the default. Ties: newest first."""
    wanted = request.GET.get("sort", "")
    wanted = wanted if wanted.removeprefix("-") in keys else default
    column = F(keys[wanted.removeprefix("-")])
    descending = wanted.startswith("-")
    return rows.order_by(column.desc(nulls_last=True) if descending else column.asc(nulls_last=True), "-pk")
