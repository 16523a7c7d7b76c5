"""What the import commands share: who owns what they register, and waiting for the worker that does the work."""

import argparse
import time
from pathlib import Path
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.core.management.base import CommandError, OutputWrapper
from django.db.models import Sum

from webapp.accounts.models import Role, User
from webapp.runs.imports import Imported
from webapp.runs.models import FINAL, Stage, Status
from webapp.runs.overview import queues_without_worker
from webapp.runs.uploads import keep_upload

POLL_SECONDS = 0.5


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that both commands have."""
    parser.add_argument("--name", required=True, help="what runs refer to it by")
    parser.add_argument("--hub", default="", help="owner/name on the Hugging Face hub, downloaded by the worker")
    parser.add_argument("--revision", default="", help="branch, tag or commit on the hub; default: main")
    parser.add_argument("--owner", default="", help="who it belongs to; default: the first admin")
    parser.add_argument("--source", default="", help="where it was published")
    parser.add_argument("--licence", default="", help="as its authors state it")
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait for the worker and print what came out (default), or return at once",
    )


def owner(name: str) -> User:
    """Return the person called `name`, or the first admin. Raises CommandError when there is none."""
    people = User.objects.filter(is_active=True).order_by("pk")
    found = people.filter(username=name) if name else people.filter(role=Role.ADMIN)
    person = found.first()
    if person is None or not person.may_research:
        what = (
            f"nobody who may import is called {name!r}; name an admin or a researcher"
            if name
            else "there is no admin yet"
        )
        message = f"{what}. People are made on the page People, the first admin at the first start"
        raise CommandError(message)
    return person


def store_file(path: Path) -> str:
    """Store a file as an uploaded one is stored and return its digest. Raises CommandError when it is no file."""
    if not path.is_file():
        message = f"there is no file at {path}; name the file to import"
        raise CommandError(message)
    with path.open("rb") as file:
        return keep_upload(UploadedFile(file, name=path.name, size=path.stat().st_size))


def wait(item: Imported, out: OutputWrapper) -> bool:
    """Wait until an import has ended, printing how far it is; return whether a worker was there to wait for.

    Raises CommandError with the reason when the import fails.
    """
    shown = ""
    while True:
        item.refresh_from_db()
        stage = item.stage
        if stage is None:
            message = f"{item.name} has no import to wait for"
            raise ValueError(message)
        if stage.status in FINAL:
            break
        if stage.queue in queues_without_worker():
            out.write(
                f"{item.name} is registered and waits: no worker for the queue {stage.queue} is running. Start the product "
                f"(make up), or a worker (celery -A workers.app worker -Q {stage.queue}); it will be imported then"
            )
            return False
        line = _progress(stage)
        if line != shown:
            out.write(line)
            shown = line
        time.sleep(POLL_SECONDS)
    if stage.status != Status.DONE:
        message = f"{item.name} was not imported: {stage.message or stage.status}"
        raise CommandError(message)
    item.refresh_from_db()  # the import may have ended between reading the item and its stage
    return True


def _progress(stage: Stage) -> str:
    sums: dict[str, Any] = stage.shards.aggregate(done=Sum("progress_done"), total=Sum("progress_total"))
    share = f" {sums['done'] / sums['total']:.0%}" if sums["total"] else ""
    return f"{stage.title}: {Status(stage.status).label}{share}"
