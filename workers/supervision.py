"""Supervise one claimed shard: pass it to a runner, report what the runner says, store how it ended."""

import logging
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import InterfaceError, OperationalError, connection

from rso_core.errors import RsoError, TransientError, UserError
from rso_core.protocol import Event, Failure, Log, Metrics, Progress, Result
from webapp.runs import jobs
from webapp.runs.failures import Failed, Reason, lease
from webapp.runs.jobs import Claim, LeaseLost, Report
from workers.runner_process import Ended, RunnerProcess, WarmRunner
from workers.watchdog import SHARE_OF_LEASE, Watchdog

_TICK_SECONDS = 0.2
_REPORT_SECONDS = 1.0
_STORING_SECONDS = 900.0  # loading a stage's pairs takes a while; the runner is idle, so nothing is done twice
_MEMORY_ADVICE = (
    "If memory ran out: lower batch_size, micro_batch_size, num_candidates or the token limits, use lora or bfloat16, "
    "or give this worker more memory"
)

logger = logging.getLogger(__name__)


def supervise(claim: Claim, runners: WarmRunner, is_leaving: Callable[[], bool]) -> None:
    """Do one shard and store its result or failure. Returns early when the work is no longer this worker's."""
    logger.info("attempt %s of %s shard %s", claim.attempt, claim.spec.kind, claim.spec.shard_index)
    with held_runner(runners, lost=LeaseLost, level=logging.WARNING) as (runner, watchdog):
        _Supervision(claim, runner, watchdog).run(is_leaving)


@contextmanager
def held_runner(runners: WarmRunner, *, lost: type[RsoError], level: int) -> Iterator[tuple[RunnerProcess, Watchdog]]:
    """Yield a runner and its watchdog. `lost`, told at `level`, means that nobody wants the work: the runner is cancelled.

    Any other error, or a supervisor that hangs, kills it.
    """
    runner = runners.get()
    seconds = SHARE_OF_LEASE * lease().total_seconds()
    with Watchdog(seconds, lambda: runner.signal_group(signal.SIGKILL)) as watchdog:
        try:
            yield runner, watchdog
        except lost as error:
            logger.log(level, "%s; ending its runner", error)
            runner.cancel()
        except BaseException:
            runner.kill()  # nobody would look after it
            raise


class _Supervision:
    """One shard under supervision."""

    def __init__(self, claim: Claim, runner: RunnerProcess, watchdog: Watchdog) -> None:
        self._claim, self._runner, self._watchdog = claim, runner, watchdog
        self._report = Report()
        self._reported = time.monotonic()
        self._out_of_memory_kills = _out_of_memory_kills()

    def run(self, is_leaving: Callable[[], bool]) -> None:
        """Follow the runner until the shard has ended one way or the other."""
        self._runner.submit(self._claim.spec)
        while not is_leaving():
            event = self._runner.next_event(_TICK_SECONDS)
            if isinstance(event, Result | Failure | Ended):
                self._conclude(event)
                return
            self._collect(event)
            if self._is_due():
                self._try_to_report()
        self._runner.cancel()
        store_at_last(lambda: jobs.release(self._claim))

    def _collect(self, event: Event | None) -> None:
        if isinstance(event, Progress):
            self._report.progress = event
        elif isinstance(event, Metrics):
            self._report.metrics.append(event)
        elif isinstance(event, Log):
            self._report.log.append(event)

    def _is_due(self) -> bool:
        waited = time.monotonic() - self._reported
        return waited >= lease().total_seconds() / 4 or (waited >= _REPORT_SECONDS and self._report != Report())

    def _try_to_report(self) -> None:
        self._reported = time.monotonic()
        if answered(lambda: jobs.record(self._claim, self._report)):
            self._report = Report()
            self._watchdog.beat()

    def _conclude(self, event: Result | Failure | Ended) -> None:
        """Store the outcome with all that was said before it."""
        self._watchdog.beat(_STORING_SECONDS)
        store_at_last(lambda: jobs.record(self._claim, self._report))
        if isinstance(event, Result):
            self._finish(event)
            return
        # A runner that failed may hold memory or a broken device.
        self._runner.close()
        self._fail(_failed(event, self._out_of_memory_kills))

    def _finish(self, result: Result) -> None:
        try:
            store_at_last(lambda: jobs.finish_shard(self._claim, digest=result.digest, summary=result.summary))
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it must end the attempt and be shown
            self._fail(_failed_to_store(error))

    def _fail(self, failed: Failed) -> None:
        logger.warning("attempt %s of %s failed: %s", self._claim.attempt, self._claim.spec.kind, failed.message)
        store_at_last(lambda: jobs.fail_shard(self._claim, failed))


def store_at_last(write: Callable[[], None]) -> None:
    """Write, as often as the database needs to come back. The watchdog ends what hangs for ever."""
    while not answered(write):
        time.sleep(_TICK_SECONDS)


def answered(write: Callable[[], None]) -> bool:
    """Return whether the database answered. A lost connection is closed, so that the next call opens a new one."""
    try:
        write()
    except (OperationalError, InterfaceError) as error:
        logger.warning("the database did not answer: %s", error)
        connection.close()
        return False
    return True


def _failed(event: Failure | Ended, kills_before: int) -> Failed:
    if isinstance(event, Failure):
        return Failed(event.reason, event.message, event.traceback)
    if event.exit_code >= 0:
        message = f"the runner left with exit code {event.exit_code} before it had answered; its last words are below"
        return Failed("internal", message, event.stderr, event.exit_code)
    reason: Reason = "killed"
    if event.exit_code == -signal.SIGKILL and _out_of_memory_kills() > kills_before:
        reason = "out_of_memory"
    return Failed(reason, _killed_message(event.exit_code), event.stderr, event.exit_code)


def _killed_message(exit_code: int) -> str:
    name = signal.Signals(-exit_code).name
    return f"the runner was ended by {name}, not by this product. {_MEMORY_ADVICE}"


def _failed_to_store(error: Exception) -> Failed:
    if isinstance(error, UserError):
        return Failed("user", str(error))
    reason: Reason = "transient" if isinstance(error, TransientError | OSError) else "internal"
    message = f"the result could not be stored: {error}"
    return Failed(reason, message, "".join(traceback.format_exception(error)))


def _out_of_memory_kills() -> int:
    """Return how many processes the system has killed for want of memory since it started (0 where it does not say)."""
    try:
        counters = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in counters.splitlines() if line.startswith("oom_kill ")), 0)
