"""The audit log: one entry for everything that somebody may later want to know who did.

Entries are written in the transaction of what they tell of, so that neither is there without the other. The database
refuses to change or delete them (migration 0004); only `manage.py forget_audit` may, for old ones, and says so here.
"""

from collections.abc import Iterable
from typing import Any, Literal

from django.db import connection
from django.db.models import Model
from django.http import HttpRequest

from webapp.accounts.models import AuditEntry, User

_LABEL_LENGTH = 200
_DIFFERENT = """
WITH RECURSIVE known (value) AS (
    (SELECT {column} FROM accounts_auditentry ORDER BY {column} LIMIT 1)
    UNION ALL
    SELECT (SELECT {column} FROM accounts_auditentry WHERE {column} > known.value ORDER BY {column} LIMIT 1)
    FROM known WHERE known.value IS NOT NULL
)
SELECT value FROM known WHERE value IS NOT NULL
"""


def record(actor: User | None, action: str, thing: Model | str, **details: Any) -> AuditEntry:
    """Write down that `actor` (None: the product itself) did `action` (past tense) to `thing`, with JSON details.

    `thing` is a row, or what is meant where there is no row: "list of runs".
    """
    row = thing if isinstance(thing, Model) else None
    return AuditEntry.objects.create(
        actor=actor,
        actor_name=actor.username if actor else "",
        action=action,
        kind=kind_of(thing),
        number=row.pk if row else None,
        label=str(row)[:_LABEL_LENGTH] if row else "",
        details=details,
    )


def record_download(request: HttpRequest, thing: Model | str, *, file: str, **details: Any) -> None:
    """Write down that somebody fetches a file. Asking for its headers only is none."""
    if request.method == "GET":
        person = request.user if isinstance(request.user, User) else None
        record(person, "downloaded", thing, file=file, **details)


def address_of(request: HttpRequest) -> str:
    """Return the address that a request came from, as far as the trusted proxies tell it."""
    return str(request.META.get("REMOTE_ADDR", ""))


def kind_of(thing: Model | str) -> str:
    """Return the word for what kind of thing this is."""
    return str(thing._meta.verbose_name) if isinstance(thing, Model) else thing  # noqa: SLF001 - Django's public API


def history(thing: Model, *, length: int = 30) -> list[AuditEntry]:
    """Return the newest entries about one thing."""
    rows = AuditEntry.objects.filter(kind=kind_of(thing), number=thing.pk)
    return list(rows.order_by("-pk")[:length])


def known_values(column: Literal["action", "kind"]) -> Iterable[str]:
    """Return the different values of a column, found by jumps through its index instead of by reading every row."""
    with connection.cursor() as cursor:
        cursor.execute(_DIFFERENT.format(column=column))
        return [value for (value,) in cursor.fetchall()]
