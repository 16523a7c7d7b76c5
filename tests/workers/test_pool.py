"""Whatever becomes of a worker's child, the next one works."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from billiard.einfo import ExceptionWithTraceback
from celery.concurrency import get_implementation

from tests.workers.work import add
from workers.app import app
from workers.pool import ProcessLock

SECONDS = 20


@pytest.fixture
def pool() -> Iterator[Any]:
    """The pool that workers have over a broker in a folder, with the one child that they have."""
    pool = get_implementation(app.conf.worker_pool).BlockingPool(processes=1, lost_worker_timeout=0.5)
    yield pool
    pool.terminate()


def child_of(pool: Any) -> int:
    """Return the process id of the child once it waits for work."""
    assert pool.apply_async(add, (0, 0)).get(SECONDS) == 0
    time.sleep(0.2)
    pid: int = pool._pool[0].pid
    return pid


def wait_for_another(pool: Any, child: int) -> None:
    while not pool._pool or pool._pool[0].pid == child:
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_an_idle_child_was_ended_the_next_one_hears_of_work(pool: Any, number: signal.Signals) -> None:
    child = child_of(pool)
    os.kill(child, number)
    wait_for_another(pool, child)
    assert pool.apply_async(add, (1, 2)).get(SECONDS) == 3


def test_after_a_busy_child_was_killed_the_next_one_hears_of_work(pool: Any) -> None:
    child = child_of(pool)
    pool.apply_async(time.sleep, (60,))
    time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    wait_for_another(pool, child)
    assert pool.apply_async(add, (1, 2)).get(SECONDS) == 3


class Deadly:
    """Ends the process that unpickles it: it has the message then, and has not acknowledged it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_what_a_child_took_and_never_acknowledged_is_over_with_it(pool: Any) -> None:
    acknowledged: list[bool] = []
    taken = pool.apply_async(add, (1, Deadly()), accept_callback=lambda *_: acknowledged.append(True))
    with pytest.raises(ExceptionWithTraceback, match="WorkerLostError"):
        taken.get(SECONDS)
    assert acknowledged == [True]
    assert pool.apply_async(add, (1, 2)).get(SECONDS) == 3


def test_a_lock_keeps_others_out_and_ends_with_its_holder() -> None:
    lock = ProcessLock()
    reader, writer = os.pipe()
    if not (holder := os.fork()):
        lock.acquire()
        os.write(writer, b".")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    if not (waiting := os.fork()):
        with lock:
            os._exit(7)
    time.sleep(0.2)
    assert os.waitpid(waiting, os.WNOHANG) == (0, 0)
    os.kill(holder, signal.SIGKILL)
    _, status = os.waitpid(waiting, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    os.waitpid(holder, 0)
