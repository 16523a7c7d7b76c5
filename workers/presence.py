"""A thread of each worker process that says it is alive and looks after what nobody else does."""

import logging
import threading
from pathlib import Path
from typing import Any, Self

from django.db import DatabaseError, InterfaceError, connection

from webapp.playground import tidying
from webapp.runs.failures import lease
from webapp.runs.jobs import note_worker
from webapp.runs.queue import INTERACTIVE
from webapp.runs.reaper import reap

_LONGEST_PAUSE_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Presence(threading.Thread):
    """Writes the `Worker` row and reaps, every ten seconds or twice a lease, until stopped."""

    def __init__(self, *, name: str, queue: str, slots: int) -> None:
        super().__init__(name="presence", daemon=True)
        self._row = {"name": name, "queue": queue, "device": device()}
        self._slots = slots
        self._stopped = threading.Event()

    @classmethod
    def of_consumer(cls, consumer: Any) -> Self:
        """Return the presence of the worker that a Celery consumer belongs to."""
        # Every worker serves the playground; the others say where it belongs.
        queues = ",".join(sorted(set(consumer.app.amqp.queues.consume_from) - {INTERACTIVE}))
        return cls(name=consumer.hostname, queue=queues, slots=consumer.pool.num_processes)

    def run(self) -> None:
        """Go round until stopped. A database that is away is tried again the next time round."""
        pause = min(_LONGEST_PAUSE_SECONDS, lease().total_seconds() / 2)
        while True:
            try:
                note_worker(**self._row, slots=self._slots)
                reap()
                tidying.tidy()
            except (DatabaseError, InterfaceError) as error:
                logger.warning("the database did not answer the reaper: %s", error)
            except Exception:
                # A worker that works must not be shown as gone for what one round met.
                logger.exception("a round of the reaper failed; the next one is in %g s", pause)
            finally:
                # Closed between rounds: the pool may fork a new child at any time, which must inherit no connection.
                connection.close()
            if self._stopped.wait(pause):
                return

    def stop(self) -> None:
        """End the thread after the round it is in."""
        self._stopped.set()


def device() -> str:
    """Return what this machine computes on, without loading a library that would claim it."""
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                return line.removeprefix("Model:").strip()
    return "CPU"
