"""Ring for workers. The message says which stage; the database says whether there is work.

Messages may be lost or doubled without harm, because a worker claims in the database and the reaper rings
again. So nothing here waits for the broker and no failure of it reaches the caller. Tasks are sent by name:
the web application imports nothing of the workers.
"""

import logging
from pathlib import Path
from typing import Any

from celery import Celery
from django.conf import settings
from django.db import transaction

from webapp.runs import filesystem_broker

EXECUTE_STAGE = "execute_stage"
ANSWER_QUESTIONS = "answer_questions"
REAP = "reap"
FORGET_UPLOADS = "forget_uploads"
CHECK_CAMPAIGNS = "check_campaigns"
INTERACTIVE = "interactive"  # the queue of the playground: every worker listens to it

_CONNECT_SECONDS = 3
_INTERACTIVE_SECONDS = 30  # a busy worker may hold a ring; the database is looked at between two pieces of work anyway
# Celery's own second would pass at every message, and be waited for by what is behind it.
_POLL_SECONDS = 0.1
# A person waits for the page that rings; the reaper rings again anyway.
_TRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}

logger = logging.getLogger(__name__)


def broker_settings() -> dict[str, Any]:
    """Return the Celery settings that sender and workers must agree on, from Django's settings."""
    url = settings.CELERY_BROKER_URL or "filesystem://"
    return {
        "broker_url": url,
        "broker_transport_options": _transport_options(url),
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "result_backend": None,
        "task_create_missing_queues": True,
        "task_default_queue": "cpu",
        "timezone": "UTC",
    }


def _transport_options(url: str) -> dict[str, Any]:
    if not url.startswith("filesystem:"):
        return {"socket_connect_timeout": _CONNECT_SECONDS} if url.startswith("redis") else {}
    filesystem_broker.install()
    folder = Path(settings.VAR_DIR) / "broker"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("messages", "control"):
        (folder / name).mkdir(exist_ok=True, mode=0o700)
    return {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "control_folder": str(folder / "control"),
        "polling_interval": _POLL_SECONDS,
    }


def _sender() -> Celery:
    sender = Celery("rso-studio-sender", set_as_current=False)
    options = broker_settings()
    options["broker_transport_options"] |= _TRY_ONCE
    sender.conf.update(options, broker_connection_timeout=_CONNECT_SECONDS)
    return sender


def ring(*, stage: int, queue: str, times: int = 1) -> None:
    """Tell `times` workers, when the transaction has committed, that this stage may have work."""
    transaction.on_commit(lambda: _send(stage, queue, times), robust=True)


def _send(stage: int, queue: str, times: int) -> None:
    try:
        with _sender() as sender:
            for _ in range(times):
                sender.send_task(EXECUTE_STAGE, [stage], queue=queue, ignore_result=True, retry=False)
    except Exception:
        # Whatever the broker's library raises: the reaper rings again.
        logger.exception("could not ring for stage %s on queue %s", stage, queue)


def ring_interactive(*, times: int = 1) -> None:
    """Tell `times` workers, when the transaction has committed, that somebody waits in the playground."""
    transaction.on_commit(lambda: _send_interactive(times), robust=True)


def _send_interactive(times: int) -> None:
    try:
        with _sender() as sender:
            for _ in range(times):
                sender.send_task(
                    ANSWER_QUESTIONS, queue=INTERACTIVE, ignore_result=True, retry=False, expires=_INTERACTIVE_SECONDS
                )
    except Exception:
        # Whatever the broker's library raises: the reaper rings again.
        logger.exception("could not ring for the playground")
