"""`manage.py create_campaign FILE`: what the page New campaign does, from a YAML or JSON file."""

import argparse
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from rso_core.errors import UserError
from webapp.human_eval import services
from webapp.human_eval.campaign_files import read_campaign_file
from webapp.human_eval.launching import what_is_missing
from webapp.human_eval.models import Campaign
from webapp.runs.command_line import owner, store_file


class Command(BaseCommand):
    """Make a draft of a campaign, and open it when asked to."""

    help = "Make a campaign from a YAML or JSON file with the form's fields and a list of systems."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare file, owner and whether to open it."""
        parser.add_argument("file", type=Path, help="the description: name, dataset, systems …")
        parser.add_argument("--owner", default="", help="who it belongs to; default: the first admin")
        parser.add_argument("--open", action="store_true", help="open it at once; fails while responses are missing")

    def handle(self, **options: Any) -> None:
        """Make the draft; say what it still needs, or open it."""
        try:
            campaign = self._create(options)
            if options["open"]:
                services.open_campaign(campaign, by=campaign.owner)
        except UserError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{campaign.name} is {campaign.get_status_display()}: {campaign.get_absolute_url()}")
        for sentence in what_is_missing(campaign) if campaign.status == Campaign.Status.DRAFT else ():
            self.stdout.write(f"  before it can be opened: {sentence}")

    @transaction.atomic
    def _create(self, options: dict[str, Any]) -> Campaign:
        """Make the draft with its files: all of it or nothing."""
        person = owner(options["owner"])
        form, files = read_campaign_file(options["file"], user=person)
        digests = {index: store_file(path) for index, path in files.items()}
        created = services.create_campaign(owner=person, values=form.campaign_values, systems=form.systems)
        if created.prompts.trained_on:
            self.stdout.write(
                f"{created.prompts.trained_on} prompts were left out, because a chosen system was trained on them"
            )
        for index, digest in digests.items():
            system = created.campaign.systems.get(index=index)
            taken = services.attach_file(system, digest=digest, name=files[index].name, by=person)
            self.stdout.write(
                f"{taken.stored} responses of {system.label} were stored, {len(taken.missing)} are missing"
            )
        return created.campaign
