"""Look for campaigns whose slots and answers do not fit, now: workers do it once a day."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from webapp.human_eval.daily_check import findings_in
from webapp.human_eval.models import Campaign


class Command(BaseCommand):
    """Prints what does not fit and exits with 1; without findings it says how many campaigns it looked at."""

    help = "Check that no task has more answers than replicas, and that slots and answers fit."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the keys of campaigns."""
        parser.add_argument("campaign", nargs="*", type=int, help="only these campaigns, by number")

    def handle(self, *, campaign: list[int], **_: Any) -> None:
        """Ask every rule of every campaign."""
        campaigns = Campaign.objects.filter(pk__in=campaign) if campaign else Campaign.objects.all()
        if found := findings_in(campaigns):
            message = "\n".join(found)
            raise CommandError(message)
        self.stdout.write(f"{len(campaigns)} campaigns: everything fits")
