"""Supervise one answer in the playground: pass it to a runner, show what the runner tells, store how it ended."""

import logging
import signal
import time
from collections.abc import Callable

from rso_core.protocol import Failure, Partial, Result
from webapp.playground import answering
from webapp.playground.answering import AnswerClaim, AnswerLost
from workers.runner_process import Ended, RunnerProcess, WarmRunner
from workers.supervision import answered, held_runner, store_at_last
from workers.watchdog import Watchdog

_TICK_SECONDS = 0.1
_TELL_SECONDS = 0.2  # at most five writes a second
_HEARTBEAT_SECONDS = 1.0  # how soon a cancelled answer is noticed while nothing is written


def answer(claim: AnswerClaim, runners: WarmRunner, is_leaving: Callable[[], bool]) -> None:
    """Answer and store it. Returns early when nobody wants the answer any more."""
    with held_runner(runners, lost=AnswerLost, level=logging.INFO) as (runner, watchdog):
        _Answering(claim, runner, watchdog).run(is_leaving)


class _Answering:
    """One answer under supervision."""

    def __init__(self, claim: AnswerClaim, runner: RunnerProcess, watchdog: Watchdog) -> None:
        self._claim, self._runner, self._watchdog = claim, runner, watchdog
        self._partial: Partial | None = None
        self._told = time.monotonic()

    def run(self, is_leaving: Callable[[], bool]) -> None:
        """Follow the runner until the answer is there, or there will be none."""
        self._runner.submit(self._claim.spec)
        while not is_leaving():
            event = self._runner.next_event(_TICK_SECONDS)
            if isinstance(event, Result | Failure | Ended):
                self._conclude(event)
                return
            if isinstance(event, Partial):
                self._partial = event
            waited = time.monotonic() - self._told
            if waited >= (_HEARTBEAT_SECONDS if self._partial is None else _TELL_SECONDS):
                self._tell()
        self._runner.cancel()
        store_at_last(lambda: answering.give_back(self._claim))

    def _tell(self) -> None:
        self._told = time.monotonic()
        partial, self._partial = self._partial, None
        if answered(lambda: answering.tell(self._claim, partial)):
            self._watchdog.beat()

    def _conclude(self, event: Result | Failure | Ended) -> None:
        if isinstance(event, Result):
            store_at_last(lambda: answering.finish(self._claim, event.summary))
            return
        if not (isinstance(event, Failure) and event.reason == "user"):
            self._runner.close()  # it may hold memory or a broken device
        store_at_last(lambda: answering.fail(self._claim, _message(event)))


def _message(event: Failure | Ended) -> str:
    if isinstance(event, Failure):
        return event.message
    if event.exit_code == -signal.SIGKILL:
        return "its process was killed, most likely because memory ran out; ask a smaller model, or a worker with more memory"
    return f"its process left with exit code {event.exit_code} before it had answered; see the worker's log"
