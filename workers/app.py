"""The Celery application of workers and beat.

Celery carries messages and keeps worker processes alive; what is due, who does it and what came of it stands in
the database. So messages are acknowledged early, hold a stage's id and nothing else, and no result is kept.

    celery -A workers.app worker -Q gpu,interactive -c 1 -n gpu@%h     one per GPU
    celery -A workers.app worker -Q cpu,interactive -c 1 -n cpu@%h
    celery -A workers.app beat
"""

import os
import signal
from multiprocessing.sharedctypes import RawValue

import django
from celery import Celery
from celery.signals import worker_process_init, worker_ready, worker_shutdown, worker_shutting_down

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")  # they would load every page; the web process makes them
django.setup()

from webapp.runs.queue import CHECK_CAMPAIGNS, FORGET_UPLOADS, REAP, broker_settings  # noqa: E402 - needs the settings
from workers.lifeline import die_with_parent  # noqa: E402
from workers.presence import Presence  # noqa: E402

REAP_SECONDS, HOUR = 5.0, 3600.0

app = Celery("rso-studio")
app.conf.update(
    broker_settings(),
    imports=("workers.tasks",),
    worker_pool="workers.pool:TaskPool",
    worker_prefetch_multiplier=1,  # a message taken by a busy worker would wait for hours
    task_acks_late=False,  # a late acknowledgement delivers long work twice; the database redelivers
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    beat_scheduler="celery.beat:Scheduler",  # in memory: nothing of one entry is worth keeping
    beat_schedule={
        "reap": {"task": REAP, "schedule": REAP_SECONDS, "options": {"queue": "cpu", "expires": REAP_SECONDS}},
        "forget uploads": {"task": FORGET_UPLOADS, "schedule": HOUR, "options": {"queue": "cpu", "expires": HOUR}},
        "check campaigns": {"task": CHECK_CAMPAIGNS, "schedule": HOUR, "options": {"queue": "cpu", "expires": HOUR}},
    },
)

# Shared with the forked children. Raw memory on purpose: a lock would stay locked if a child were killed.
_leaving = RawValue("b", 0)
_presence: list[Presence] = []


def is_leaving() -> bool:
    """Return whether this worker has been asked to shut down."""
    return bool(_leaving.value)


def _on_process_init(**_: object) -> None:
    # Of a killed worker nothing goes on working: its work is another's when the lease ends.
    die_with_parent(signal.SIGKILL)


def _on_shutting_down(**_: object) -> None:
    _leaving.value = 1


def _on_ready(sender: object, **_: object) -> None:
    presence = Presence.of_consumer(sender)
    presence.start()
    _presence.append(presence)


def _on_shutdown(**_: object) -> None:
    for presence in _presence:
        presence.stop()


worker_process_init.connect(_on_process_init)
worker_shutting_down.connect(_on_shutting_down)
worker_ready.connect(_on_ready)
worker_shutdown.connect(_on_shutdown)
