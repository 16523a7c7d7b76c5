"""Child processes that are started again when they end, and stopped together."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from workers.lifeline import dying_with_me

BASE_DIR = Path(__file__).resolve().parent.parent
STOP_SECONDS = 20.0
_LONGEST_PAUSE_SECONDS = 30.0
_SETTLED_SECONDS = 60.0  # having run for this long, a child starts over with the shortest pause
_LOG_BYTES = 10 << 20


class Child:
    """One service: its command, and the process that runs it now."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self.pause = 0.0
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self.due: float | None = None  # when it is to be started again

    def start(self) -> None:
        """Start the process in a session of its own, so that Ctrl-C in the terminal reaches only the supervisor."""
        self._started, self.due = time.monotonic(), None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=BASE_DIR,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dying_with_me(signal.SIGKILL),  # noqa: PLW1509 - it makes one system call
            )

    @property
    def exit_code(self) -> int | None:
        """Return how the process ended, negative for a signal; None while it runs."""
        return self._process.poll() if self._process else None

    def plan_restart(self) -> None:
        """Set when to start again: soon, and later each time it does not last."""
        self.kill()  # what it left in its group would work beside the new one
        lasted = time.monotonic() - self._started
        self.pause = 1.0 if lasted > _SETTLED_SECONDS or not self.pause else min(self.pause * 2, _LONGEST_PAUSE_SECONDS)
        self.due = time.monotonic() + self.pause

    def ask_to_leave(self) -> None:
        """Let the process end its work in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for the process, and kill all of its group when it takes longer."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, seconds))
            self.kill()

    def kill(self) -> None:
        """End the process and everything in its group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Children:
    """The services of one product, in the order of their start."""

    def __init__(self) -> None:
        self._all: list[Child] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def start(self, child: Child) -> None:
        """Start a service and look after it from now on."""
        self._all.append(child)
        child.start()

    def ended(self) -> list[Child]:
        """Return the services that do not run."""
        return [child for child in self._all if child.exit_code is not None]

    def start_due(self) -> Iterator[Child]:
        """Start again what is due, and yield the services whose end was noticed just now."""
        for child in self.ended():
            if child.due is None:
                child.plan_restart()
                yield child
            elif time.monotonic() >= child.due:
                child.start()

    def stop(self) -> None:
        """End all services, those last that the others need."""
        deadline = time.monotonic() + STOP_SECONDS
        for child in reversed(self._all):
            child.ask_to_leave()
        for child in reversed(self._all):
            child.wait(deadline - time.monotonic())


def rotated(log: Path) -> Path:
    """Return the path of a log; one that has grown large is put aside, and the one before it is dropped."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".1.log"))
    return log


def last_lines(log: Path, lines: int = 12) -> str:
    """Return the end of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
