"""Rows of plain SQL as Django's models, for the statements that every page of every rater waits for.

Django makes the text of a SELECT anew each time, which takes several times as long as having it answered. The few
statements of the rating page are written out instead, with columns by `columns`, and their rows become models by `made`.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Field, Model

# ruff: noqa: S608 - made of names of tables and columns; values are parameters
Row = TypeVar("Row", bound=Model)
_Fields = tuple["Field[Any, Any]", ...]


@cache
def _fields(model: type[Model]) -> _Fields:
    return tuple(model._meta.concrete_fields)  # noqa: SLF001 - Django's public API


def columns(model: type[Model], alias: str) -> str:
    """Return the columns of a model's table, in the order in which `made` takes their values."""
    return ", ".join(f'{alias}."{field.column}"' for field in _fields(model))


def width(model: type[Model]) -> int:
    """Return how many columns a model's table has."""
    return len(_fields(model))


@cache
def _names(model: type[Model]) -> tuple[str, ...]:
    return tuple(field.attname for field in _fields(model))


@cache
def _converted(model: type[Model]) -> tuple[tuple[int, Any], ...]:
    """Return the places of columns whose values are not yet those of the field, as JSON is text, with their converters."""
    converters = ((place, getattr(field, "from_db_value", None)) for place, field in enumerate(_fields(model)))
    return tuple((place, converter) for place, converter in converters if converter is not None)


def made(model: type[Row], values: Sequence[Any]) -> Row | None:
    """Return the object of the values of `columns`; None when an outer join found none."""
    if values[0] is None:
        return None
    row = list(values)
    for place, converter in _converted(model):
        row[place] = converter(row[place], None, connection)
    return model.from_db("default", _names(model), row)


def made_each(models: Sequence[type[Model]], values: Sequence[Any]) -> list[Any]:
    """Return the objects of a joined row, which holds the values of each model's `columns` one after the other."""
    found, start = [], 0
    for model in models:
        end = start + width(model)
        found.append(made(model, values[start:end]))
        start = end
    return found


def insert(row: Model) -> None:
    """Write a new object as a row, and give it its key."""
    statement, fields = _insertion(type(row))
    values = [field.get_db_prep_save(field.pre_save(row, add=True), connection) for field in fields]
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        row.pk = cursor.fetchone()[0]
    row._state.adding, row._state.db = False, "default"  # noqa: SLF001 - as save() leaves it


@cache
def _insertion(model: type[Model]) -> tuple[str, _Fields]:
    fields = tuple(field for field in _fields(model) if not field.primary_key)
    names, places = ", ".join(f'"{field.column}"' for field in fields), ", ".join(["%s"] * len(fields))
    return f'INSERT INTO "{_table(model)}" ({names}) VALUES ({places}) RETURNING id', fields


def update(row: Model, names: tuple[str, ...]) -> None:
    """Write some columns of an object over those of its row."""
    statement, fields = _change(type(row), names)
    values = [field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields]
    with connection.cursor() as cursor:
        cursor.execute(statement, [*values, row.pk])


@cache
def _change(model: type[Model], names: tuple[str, ...]) -> tuple[str, _Fields]:
    fields = tuple(field for field in _fields(model) if field.name in names)
    assigned = ", ".join(f'"{field.column}" = %s' for field in fields)
    return f'UPDATE "{_table(model)}" SET {assigned} WHERE id = %s', fields


def _table(model: type[Model]) -> str:
    return model._meta.db_table  # noqa: SLF001 - Django's public API


def first_row(statement: str, values: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return the first row of a statement; None when there is none."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        row: tuple[Any, ...] | None = cursor.fetchone()
    return row
