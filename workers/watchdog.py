"""Ends a worker that cannot reach the database before somebody else may have its work.

A query through a network that swallows packets can hang for longer than a lease, whatever its timeouts say. So a
thread watches the clock: when nothing has succeeded for 0.8 of the lease it kills the runner's group and then its
own process, which Celery replaces.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

SHARE_OF_LEASE = 0.8

logger = logging.getLogger(__name__)


class Watchdog:
    """Calls `on_silence`, then kills this process, when `beat` has not been called for `seconds`."""

    def __init__(self, seconds: float, on_silence: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_silence = on_silence
        self._deadline = time.monotonic() + seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, seconds: float | None = None) -> None:
        """Say that the database answered just now; the next answer is due within `seconds`."""
        self._deadline = time.monotonic() + (self._seconds if seconds is None else seconds)

    def _watch(self) -> None:
        while not self._stopped.wait(min(0.5, self._seconds / 10)):
            if time.monotonic() > self._deadline:
                logger.critical("the database has not answered for %.1f s: ending the runner and myself", self._seconds)
                self._on_silence()
                os.kill(os.getpid(), signal.SIGKILL)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
