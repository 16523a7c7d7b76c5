"""Print a one-time link, for who has no way in: a forgotten password, a script's own account."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from webapp.accounts.models import Role, User
from webapp.accounts.people import add_person, one_time_link


class Command(BaseCommand):
    """Prints the path of a new one-time link; the person is created when there is none of that name."""

    help = "Print the path of a one-time link for a person, who is created if need be."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the name, and the role of somebody new."""
        parser.add_argument("username")
        parser.add_argument("--role", choices=Role.values, help="create the person with this role if there is none")

    @transaction.atomic
    def handle(self, *, username: str, role: str | None, **_: Any) -> None:
        """Create the person if need be and print the path."""
        person = User.objects.select_for_update().filter(username=username).first()
        if person is None:
            if role is None:
                message = f"there is nobody called {username!r}. Give --role to create the account"
                raise CommandError(message)
            person = add_person(username=username, role=role, by=None)
        if not person.is_active:
            message = f"the account {username!r} is switched off; an admin can switch it on"
            raise CommandError(message)
        self.stdout.write(one_time_link(person, by=None))
