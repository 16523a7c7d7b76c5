"""The audit log: one entry for everything that somebody may later want to know who did."""

from typing import Any

from django.db.models import Model

from webapp.accounts.models import AuditEntry, User

_LABEL_LENGTH = 200


def record(actor: User | None, action: str, thing: Model, **details: Any) -> AuditEntry:
    """Write down that `actor` (None: the product itself) did `action` (past tense) to `thing`, with JSON details."""
    return AuditEntry.objects.create(
        actor=actor,
        actor_name=actor.username if actor else "",
        action=action,
        kind=str(thing._meta.verbose_name),  # noqa: SLF001 - Django's public API
        number=thing.pk,
        label=str(thing)[:_LABEL_LENGTH],
        details=details,
    )
