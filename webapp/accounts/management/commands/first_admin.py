"""Create the first admin, who comes in by a one-time link."""

from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction

from webapp.accounts.audit import record
from webapp.accounts.first_sign_in import first_sign_in_path
from webapp.accounts.models import Role, User

_NAME = "admin"


class Command(BaseCommand):
    """Prints the path of a one-time link as long as no admin has a password; afterwards it prints nothing."""

    help = "Create the first admin and print the path of a one-time link, until somebody has used one."

    @transaction.atomic
    def handle(self, **_: Any) -> None:
        """Look for an admin who can sign in; else make the link."""
        admins = User.objects.filter(role=Role.ADMIN, is_active=True).select_for_update()
        if any(admin.has_usable_password() for admin in admins):
            return
        admin = admins.first() or _new_admin()
        self.stdout.write(first_sign_in_path(admin))


def _new_admin() -> User:
    admin = User.objects.create_user(_free_name(), role=Role.ADMIN, is_staff=True, is_superuser=True)
    record(None, "added", admin, role=Role.ADMIN, by_command="first_admin")
    return admin


def _free_name() -> str:
    taken = set(User.objects.filter(username__startswith=_NAME).values_list("username", flat=True))
    return next(name for name in (_NAME, *(f"{_NAME}{n}" for n in range(2, len(taken) + 3))) if name not in taken)
