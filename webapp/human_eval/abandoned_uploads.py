"""Files that were uploaded and never used: the form was left, or sent again with another file.

A form keeps its file for a day, so that it need not be chosen again. After that, what no stage, dataset, model or
campaign refers to is removed. With an object store this tidies what this machine has seen.
"""

import logging
import time
from pathlib import Path

from django.conf import settings
from django.db.models import TextField
from django.db.models.functions import Cast

from rso_core.errors import UserError
from webapp.human_eval.models import System
from webapp.runs.artifacts import store
from webapp.runs.forms_uploads import KEPT_FOR_SECONDS
from webapp.runs.models import Dataset, RegisteredModel, Shard, Stage

KEEP_SECONDS = KEPT_FOR_SECONDS + 3600  # whoever sends the form in the last minute has an hour

logger = logging.getLogger(__name__)


def forget_abandoned_uploads() -> int:
    """Remove the uploads that nothing refers to; return how many."""
    old = store().untouched("upload", seconds=KEEP_SECONDS)
    removed = sum(_forgotten(digest) for digest in old if not is_referred_to(digest)) + _forget_halves()
    if removed:
        logger.info("removed %s uploaded files that nothing refers to", removed)
    return removed


def _forget_halves() -> int:
    """Remove what a killed web process had received of a file."""
    before, removed = time.time() - KEEP_SECONDS, 0
    for path in Path(str(settings.FILE_UPLOAD_TEMP_DIR)).glob("*.upload*"):
        if path.is_file() and path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _forgotten(digest: str) -> bool:
    try:
        return store().forget(digest, seconds=KEEP_SECONDS)
    except (OSError, UserError) as error:  # another process was faster, or the store is away: the next round sees
        logger.info("could not remove the uploaded file %s: %s", digest[:8], error)
        return False


def is_referred_to(digest: str) -> bool:
    """Return whether anything was made from an artifact, is to be made from it, or is the same artifact."""
    stages = Stage.objects.annotate(read=Cast("input_digests", TextField()), asked=Cast("config", TextField()))
    return (
        any(kind._default_manager.filter(digest=digest).exists() for kind in (Stage, Shard, Dataset, RegisteredModel))  # noqa: SLF001 - Django's public API
        or System.objects.filter(upload_digest=digest).exists()
        or stages.filter(read__contains=digest).exists()
        or stages.filter(asked__contains=digest).exists()
    )
