"""The audit log: what is written, in which transaction, and that nobody changes it afterwards."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.utils import timezone

from rso_core.errors import UserError
from tests.conftest import AUDIT_TRUNCATE_TRIGGER
from tests.webapp.graphs import DIAMOND, run_of
from tests.webapp.test_jobs import in_threads
from webapp.accounts.audit import history, known_values, record
from webapp.accounts.models import AuditEntry, Role, User
from webapp.accounts.people import change_person
from webapp.runs import services
from webapp.runs.models import Run, Status
from webapp.runs.sharing import set_shared

pytestmark = pytest.mark.django_db


def actions(**which: Any) -> list[str]:
    return list(AuditEntry.objects.filter(**which).order_by("pk").values_list("action", flat=True))


def refused(statement: str, *values: Any) -> str:
    """Return why the database refuses a statement."""
    with pytest.raises(DatabaseError) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, values)
    return str(caught.value)


def aged(entry: AuditEntry, days: int) -> AuditEntry:
    """Return a copy of an entry that was written long ago, which no code of the product can write."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO accounts_auditentry (at, actor_name, action, kind, label, details) "
            "SELECT %s, actor_name, action, kind, label, details FROM accounts_auditentry WHERE id = %s RETURNING id",
            [timezone.now() - timedelta(days=days), entry.pk],
        )
        return AuditEntry.objects.get(pk=cursor.fetchone()[0])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_auditentry SET action = 'slept'",
        "UPDATE accounts_auditentry SET actor_id = NULL",
        "DELETE FROM accounts_auditentry",
    ],
)
def test_the_database_refuses_to_change_or_delete_entries(admin: User, statement: str) -> None:
    record(admin, "changed", admin)
    assert "neither changed nor deleted" in refused(statement)
    assert actions() == ["changed"]


def test_the_database_refuses_to_empty_the_log(admin: User) -> None:
    record(admin, "changed", admin)
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE accounts_auditentry ENABLE TRIGGER {AUDIT_TRUNCATE_TRIGGER}")
    assert "neither changed nor deleted" in refused("TRUNCATE accounts_auditentry CASCADE")
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE accounts_auditentry DISABLE TRIGGER {AUDIT_TRUNCATE_TRIGGER}")


def test_an_entry_outlives_the_account_it_tells_of(admin: User) -> None:
    guest = User.objects.create_user("guest")
    record(guest, "signed in", guest)
    guest.delete()
    entry = AuditEntry.objects.get()
    assert (entry.actor_name, entry.label) == ("guest", "guest")


def test_retention_removes_old_entries_and_says_so(admin: User) -> None:
    recent = record(admin, "changed", admin)
    old, older = aged(recent, 100), aged(recent, 500)
    out = StringIO()
    call_command("forget_audit", days=365, stdout=out)
    assert "1 entries" in out.getvalue()
    assert not AuditEntry.objects.filter(pk=older.pk).exists()
    assert set(AuditEntry.objects.values_list("pk", flat=True)) >= {recent.pk, old.pk}
    said = AuditEntry.objects.get(kind="audit log")
    assert (said.action, said.actor, said.details["entries"]) == ("removed", None, 1)
    assert "neither changed nor deleted" in refused("DELETE FROM accounts_auditentry")


def test_nothing_young_is_removed_whoever_asks(admin: User) -> None:
    record(admin, "changed", admin)
    with pytest.raises(CommandError, match="at least 90"):
        call_command("forget_audit", days=1)
    why = refused("SET LOCAL rso.audit_retention = 'on'; DELETE FROM accounts_auditentry")
    assert "neither changed nor deleted" in why


def test_a_change_that_fails_leaves_no_entry(admin: User, researcher: User) -> None:
    run = run_of(DIAMOND, researcher)

    def share_and_fail() -> None:
        with transaction.atomic():
            set_shared(admin, run, shared=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        share_and_fail()
    assert actions(kind="run") == ["launched"]


def test_what_happens_to_a_run_is_its_history(admin: User, researcher: User) -> None:
    run = run_of(DIAMOND, researcher)
    services.stop_run(run=run, by=researcher)
    services.stop_run(run=run, by=researcher)  # does nothing, so nothing is written
    services.resume_run(run=run, by=admin)
    set_shared(admin, run, shared=True)
    set_shared(admin, run, shared=False)
    found = [(entry.actor_name, entry.action) for entry in history(run)]
    assert found == [
        ("admin", "stopped sharing"),
        ("admin", "shared"),
        ("admin", "resumed"),
        ("researcher", "stopped"),
        ("researcher", "launched"),
    ]
    assert Run.objects.get().status != Status.STOPPED


def test_a_failed_sign_in_tells_the_account_and_never_what_was_typed(client: Client, researcher: User) -> None:
    client.post("/sign-in/", {"username": "researcher", "password": "a secret sentence"})
    client.post("/sign-in/", {"username": "a secret sentence", "password": "researcher"})
    client.post("/sign-in/", {"username": "researcher", "password": "correct horse battery"})
    entries = list(AuditEntry.objects.order_by("pk"))
    assert [(entry.action, entry.label) for entry in entries] == [
        ("failed to sign in", "researcher"),
        ("failed to sign in", ""),
        ("signed in", "researcher"),
    ]
    assert [entry.actor for entry in entries] == [None, None, researcher]
    assert all(entry.details == {"address": "127.0.0.1"} for entry in entries)


def test_a_changed_role_says_from_what_to_what(admin: User, rater: User) -> None:
    change_person(rater, role=Role.RESEARCHER, is_active=True, by=admin)
    change_person(rater, role=Role.RESEARCHER, is_active=True, by=admin)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.details) == ("changed", {"role": {"from": "rater", "to": "researcher"}})


def test_known_values_of_a_column_are_found_without_reading_every_row(admin: User) -> None:
    for action in ("changed", "added", "changed", "signed in"):
        record(admin, action, admin)
    assert list(known_values("action")) == ["added", "changed", "signed in"]


@pytest.mark.django_db(transaction=True)
def test_of_two_admins_who_demote_each_other_at_once_one_stays() -> None:
    for _ in range(8):
        User.objects.all().delete()
        pair = [User.objects.create_user(name, role=Role.ADMIN) for name in ("ada", "bob")]

        def demote(index: int, pair: list[User] = pair) -> str:
            try:
                change_person(pair[1 - index], role=Role.RATER, is_active=True, by=pair[index])
            except (UserError, PermissionDenied) as error:
                return str(error)
            return ""

        said = in_threads(2, demote)
        assert User.objects.filter(role=Role.ADMIN, is_active=True).count() == 1
        assert sorted(bool(reason) for reason in said) == [False, True]
