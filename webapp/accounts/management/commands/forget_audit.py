"""Remove old entries of the audit log, for places that must not keep them for ever; that is written into the log too."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction
from django.utils import timezone

from webapp.accounts.audit import record
from webapp.accounts.models import AuditEntry

SHORTEST_DAYS = 90  # the database lets nothing younger go, whoever asks


class Command(BaseCommand):
    """Removes what is older than a number of days, in one transaction with the entry that says so."""

    help = f"Remove entries of the audit log older than --days (at least {SHORTEST_DAYS}); recorded as an entry."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the age."""
        parser.add_argument("--days", type=int, required=True, help="keep entries that are younger than this")

    def handle(self, *, days: int, **_: Any) -> None:
        """Remove them and say how many."""
        if days < SHORTEST_DAYS:
            message = f"--days must be at least {SHORTEST_DAYS}, got {days}: younger entries are never removed"
            raise CommandError(message)
        limit = timezone.now() - timedelta(days=days)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL rso.audit_retention = 'on'")
            removed = AuditEntry.objects.filter(at__lt=limit).delete()[0]
            cursor.execute("SET LOCAL rso.audit_retention = 'off'")
            record(None, "removed", "audit log", entries=removed, older_than=limit.isoformat(timespec="seconds"))
        self.stdout.write(f"{removed:,} entries from before {limit:%Y-%m-%d %H:%M} UTC are removed")
