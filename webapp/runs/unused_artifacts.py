"""Files of what was deleted. They are removed when nothing has referred to them, and nobody written them, for an hour."""

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now

from rso_core.errors import RsoError
from webapp.runs.artifacts import store
from webapp.runs.models import UnusedArtifact

KEPT_FOR = timedelta(hours=1)  # longer than anything lasts between writing content and noting it in the database
_AT_ONCE = 50

logger = logging.getLogger(__name__)


def note_unused(digests: Iterable[str]) -> None:
    """Note that what these belonged to is gone. Call it in the transaction that deletes."""
    UnusedArtifact.objects.bulk_create(
        (UnusedArtifact(digest=digest) for digest in digests),
        update_conflicts=True,
        unique_fields=["digest"],
        update_fields=["noted"],
    )


def remove_unused(is_referred_to: Callable[[str], bool]) -> int:
    """Remove the files noted an hour ago or longer that nothing refers to; return how many artifacts went."""
    removed = 0
    with transaction.atomic():
        due = UnusedArtifact.objects.filter(noted__lt=Now() - KEPT_FOR).order_by("noted")
        for unused in due.select_for_update(skip_locked=True)[:_AT_ONCE]:
            if is_referred_to(unused.digest):
                unused.delete()  # what refers to it notes it again when it goes
            elif _removed(unused.digest):
                unused.delete()
                removed += 1
            else:
                UnusedArtifact.objects.filter(pk=unused.pk).update(noted=Now())
    if removed:
        logger.info("removed %s artifacts of what was deleted", removed)
    return removed


def _removed(digest: str) -> bool:
    """Remove an artifact; return whether it is gone. One that was written again of late stays for another hour."""
    try:
        return not store().exists(digest) or (
            store().path(digest).is_dir() and store().forget(digest, seconds=KEPT_FOR.total_seconds())
        )
    except (OSError, RsoError) as error:  # the store is away, or another process was faster: the next round sees
        logger.info("could not remove the artifact %s: %s", digest[:8], error)
        return False
