"""Ties processes to the one that started them, and a data folder to one process.

A process that is killed cannot end its children, so the children ask the system to be told. Linux can do that;
elsewhere the next start ends what was left behind (`end_leftovers`).
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rso_core.errors import UserError

_PR_SET_PDEATHSIG = 1
# Loaded now: between fork and exec nothing may be imported.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Have the system send this process a signal when its parent ends.

    `parent` is the expected parent: when that has ended already, the signal is sent at once.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), number)


def dying_with_me(number: signal.Signals) -> Callable[[], None]:
    """Return what a child does between fork and exec so as not to outlive this process.

    The system watches the thread that starts the child, so that must be one that lives as long as the process.
    """
    parent = os.getpid()
    return lambda: die_with_parent(number, parent)


class FolderLock:
    """HeldError by the one process that works on a folder; the system frees it however that process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def take(self, note: dict[str, Any]) -> None:
        """Take the lock and leave a note for others. Raises `HeldError` with the holder's note when it is taken."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            held = HeldError(str(self._path), file.read())
            file.close()
            raise held from None
        self._file = file
        self.write(note)

    def write(self, note: dict[str, Any]) -> None:
        """Replace the note."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(note | {"pid": os.getpid()}))
            self._file.flush()

    def release(self) -> None:
        """Let the next one have it."""
        if self._file is not None:
            self._file.close()
            self._file = None


class HeldError(UserError):
    """Another process holds the lock; `note` is what it left."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path} is locked by another process: {text}")
        try:
            self.note: dict[str, Any] = json.loads(text)
        except ValueError:
            self.note = {}
