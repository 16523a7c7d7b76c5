"""Celery's pool of child processes, one of which may be killed at any moment.

Over a broker that offers no event loop, as the folder of `make up`, Celery's children take their work out of one pipe,
one at a time under a semaphore, which an idle child holds while it waits. A child that is killed then (for want of
memory, or by hand) keeps it for ever: the child that replaces it never hears of any work, while the worker still says
that it lives. So here the lock is one of the system's, which ends with the process that holds it.
"""

import fcntl
import os
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from billiard.pool import RUN
from billiard.pool import Pool as BilliardPool
from celery.concurrency import prefork


class ProcessLock:
    """A lock between processes that have forked from the one that made it; a killed holder lets go of it."""

    def __init__(self) -> None:
        self._file, path = tempfile.mkstemp()
        Path(path).unlink()
        weakref.finalize(self, os.close, self._file)

    def acquire(self) -> bool:
        """Wait until no other process holds it. Not for threads: to the system those of one process are one holder."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let the next one have it."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Pool(BilliardPool):  # type: ignore[misc]
    """A pool over pipes whose locks end with their holder."""

    def _setup_queues(self) -> None:
        super()._setup_queues()
        for queue in (self._inqueue, self._outqueue):
            queue._rlock, queue._wlock = ProcessLock(), ProcessLock()  # noqa: SLF001 - billiard offers no other way

    def _join_exited_workers(self, *arguments: Any, **options: Any) -> list[int]:
        """Look which children have ended; what one of them took out of the pipe and never acknowledged is over too.

        Celery would wait for it, and take no other message meanwhile. If it was still on its way, it is done all the same.
        """
        exited: list[int] = super()._join_exited_workers(*arguments, **options)
        if exited and self._state == RUN and not self._inqueue._reader.poll(0):  # noqa: SLF001 - what is in the pipe is the next child's
            for job in [job for job in list(self._cache.values()) if not job.accepted()]:
                job._ack(None, time.monotonic(), None, None)  # noqa: SLF001 - Celery acknowledges the message then
                self.mark_as_worker_lost(job, exited[0])
        return exited

    @staticmethod
    def _help_stuff_finish(*_: object) -> None:
        """Leave the pipe alone when the pool is ended at once: a worker takes one message at a time, which cannot fill it.

        billiard would wait for the lock, that is for an idle child which waits for work.
        """


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """Celery's pool for `worker_pool`. With an event loop each child has pipes of its own, and nothing is different."""

    BlockingPool = Pool
