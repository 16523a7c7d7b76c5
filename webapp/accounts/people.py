"""What admins do with accounts: add a person, change role and state, make a one-time link.

Every change is made under a lock on the active admins, so that two of them who demote each other at the same moment
leave one: the second waits for the first and then finds out.
"""

from django.core.exceptions import PermissionDenied
from django.db import transaction

from rso_core.errors import UserError
from webapp.accounts.audit import record
from webapp.accounts.first_sign_in import first_sign_in_path
from webapp.accounts.models import Role, User


def add_person(*, username: str, role: str, by: User | None) -> User:
    """Create an account without a password; its owner chooses one behind a one-time link."""
    with transaction.atomic():
        person = User.objects.create_user(username, role=role)
        record(by, "added", person, role=role)
    return person


def change_person(person: User, *, role: str, is_active: bool, by: User | None) -> None:
    """Change what somebody may do. Raises UserError when no active admin would be left.

    Who is no admin any more keeps no rights of Django's superuser either.
    """
    with transaction.atomic():
        admins = _locked_admins()
        before = User.objects.select_for_update(no_key=True).get(pk=person.pk)
        _refuse_former_admin(by)
        _refuse_no_admin(before, admins, role=role, is_active=is_active)
        values = {"role": role, "is_active": is_active}
        if role != Role.ADMIN:
            values |= {"is_superuser": False, "is_staff": False}
        changed = {
            name: [getattr(before, name), value] for name, value in values.items() if getattr(before, name) != value
        }
        if changed:
            User.objects.filter(pk=person.pk).update(**values)
            record(by, "changed", before, **{name: {"from": old, "to": new} for name, (old, new) in changed.items()})
    person.refresh_from_db(fields=["role", "is_active", "is_superuser", "is_staff"])


def one_time_link(person: User, *, by: User | None) -> str:
    """Return the path of a new one-time link for somebody, and write down who made it."""
    with transaction.atomic():
        record(by, "made a one-time link for", person)
        return first_sign_in_path(person)


def _refuse_no_admin(person: User, admins: set[int], *, role: str, is_active: bool) -> None:
    """Raise UserError when this change would take the last active admin away, or nobody could let anybody in."""
    keeps = is_active and role == Role.ADMIN
    if person.pk in admins and not keeps and len(admins) == 1:
        message = "This is the last active admin. Make somebody else an admin first."
        raise UserError(message)


def _locked_admins() -> set[int]:
    """Return the active admins, locked. Whoever was demoted while this waited is not among them."""
    rows = User.objects.filter(role=Role.ADMIN, is_active=True).order_by("pk").select_for_update(no_key=True)
    return {admin.pk for admin in rows}


def _refuse_former_admin(by: User | None) -> None:
    """Refuse somebody who was an admin when the page was opened and has been made something else meanwhile."""
    if by is None:
        return
    now = User.objects.filter(pk=by.pk, is_active=True).first()
    if now is None or not now.is_admin:
        message = "you are no admin any more: another admin has just changed your account."
        raise PermissionDenied(message)
