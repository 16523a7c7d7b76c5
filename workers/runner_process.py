"""The runner as seen by its supervisor: a fresh process of `rso_core` that speaks JSON lines.

It has its own process group, so that all it starts can be ended with it, and no access to the database. It ends
by itself when its standard input closes, which the system does when the supervisor is killed.
"""

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from django.conf import settings
from pydantic import ValidationError

from rso_core.protocol import EVENT, Event, Log, StageSpec

GRACE_SECONDS = 5.0
_STDERR_LINES = 40
# The runner needs none of these; what it runs on comes from its artifacts.
_SECRETS = frozenset({"DATABASE_URL", "SECRET_KEY", "CELERY_BROKER_URL"})


@dataclass(frozen=True)
class Ended:
    """The runner has gone; `exit_code` is negative when a signal ended it."""

    exit_code: int
    stderr: str


def environment() -> dict[str, str]:
    """Return the environment of a runner."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return kept | {
        "RSO_ARTIFACT_URL": str(settings.ARTIFACT_URL),
        "RSO_ARTIFACT_CACHE": str(settings.ARTIFACT_CACHE),
        "RSO_THREADS": str(settings.RUNNER_THREADS),
        "RSO_TRAINING_PROCESSES": str(settings.TRAINING_PROCESSES),
    }


class RunnerProcess:
    """One runner process. Events arrive in a queue, filled by a thread, so that waiting for them can time out."""

    def __init__(self, command: tuple[str, ...] | None = None) -> None:
        self._process = subprocess.Popen(
            command or settings.RUNNER_COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=settings.BASE_DIR,
            env=environment(),
            start_new_session=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self.is_gone = False
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._readers = [
            _reading(self._process.stdout, self._take_line, at_end=lambda: self._events.put(None)),
            _reading(self._process.stderr, self._stderr.append),
        ]

    @property
    def pid(self) -> int:
        """Return the process id, which is the id of its group too."""
        return self._process.pid

    def submit(self, spec: StageSpec) -> None:
        """Give the runner work. If it has died, `next_event` says so."""
        stdin = _pipe(self._process.stdin)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(spec.model_dump_json() + "\n")
            stdin.flush()

    def next_event(self, timeout: float) -> Event | Ended | None:
        """Return the next event, `Ended` when the runner has gone, or None when nothing came in time."""
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        return self._ended() if event is None else event

    def _ended(self) -> Ended:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self.kill()  # it may have closed its output and live on, or have left children behind
        return Ended(self._process.returncode, "".join(self._stderr))

    def _take_line(self, line: str) -> None:
        try:
            self._events.put(EVENT.validate_json(line))
        except ValidationError:
            self._events.put(Log(message=line.rstrip("\n")))  # something a library printed

    def close(self) -> None:
        """Let an idle runner leave, and make it if it does not."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self.kill()

    def cancel(self) -> None:
        """End the runner in the middle of its work: ask first, then force."""
        self.signal_group(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the runner and everything in its group at once, and free what it held here."""
        if self.is_gone:
            return
        self.signal_group(signal.SIGKILL)
        self.is_gone = True
        self._process.wait()
        for reader in self._readers:
            reader.join(GRACE_SECONDS)
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        for pipe, reader in zip((self._process.stdout, self._process.stderr), self._readers, strict=True):
            if not reader.is_alive():  # a process that left the group may hold the other end
                _pipe(pipe).close()

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the runner and all it started."""
        if self.is_gone:
            return  # its id may be another process's by now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        message = "the runner was started without pipes"
        raise ValueError(message)
    return pipe


def _reading(
    pipe: IO[str] | None, take: Callable[[str], None], *, at_end: Callable[[], None] = lambda: None
) -> threading.Thread:
    """Return a started thread that hands each line of `pipe` to `take`."""

    def read() -> None:
        for line in _pipe(pipe):
            take(line)
        at_end()

    thread = threading.Thread(target=read, name="runner output", daemon=True)
    thread.start()
    return thread


class WarmRunner:
    """A runner that is kept between shards of one stage, and started when there is none."""

    def __init__(self, command: tuple[str, ...] | None = None) -> None:
        self._command = command
        self._runner: RunnerProcess | None = None

    def get(self) -> RunnerProcess:
        """Return a living runner."""
        if self._runner is None or self._runner.is_gone:
            self._runner = RunnerProcess(self._command)
        return self._runner

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            self._runner.close()
