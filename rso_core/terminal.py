"""Progress for people at a terminal: one line a piece of work, redrawn in place; plain lines where nobody watches."""

import sys
import time
from types import TracebackType
from typing import IO, Self

from rso_core.protocol import Event, Log, Metrics, Progress

_BAR_WIDTH = 20
_REDRAW_SECONDS = 0.1


def bar(done: int, total: int) -> str:
    """Return a bar of fixed width; a total of 0 is full."""
    filled = round(_BAR_WIDTH * min(done / total, 1)) if total else _BAR_WIDTH
    return "█" * filled + "░" * (_BAR_WIDTH - filled)


def clock(seconds: float) -> str:
    """Return a duration as m:ss, or h:mm:ss from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Line:
    """The progress of one piece of work. Feed it events with `show`; leaving the `with` block ends the line."""

    def __init__(self, title: str, stream: IO[str] | None = None) -> None:
        self.title = title
        self.tokens_per_second: float | None = None
        self.items = ""
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._start = self._part_start = time.monotonic()
        self._part = ""
        self._drawn = 0.0
        self._progress: Progress | None = None
        self._values = ""

    @property
    def part_seconds(self) -> float:
        """Return how long the present part of the work has taken so far."""
        return time.monotonic() - self._part_start

    def begin(self, part: str) -> None:
        """Start the next part of the work: `part` names it, empty when there is only one."""
        self._part, self._part_start, self._progress = part, time.monotonic(), None

    def show(self, event: Event) -> None:
        """Take up an event; progress is redrawn at most ten times a second."""
        if isinstance(event, Progress):
            self._take(event)
        elif isinstance(event, Metrics):
            self._values = " ".join(f"{name} {value:.4g}" for name, value in event.values.items())
        elif isinstance(event, Log):
            self.note(f"{event.level}: {event.message}" if event.level == "warning" else event.message)
        if self._live and time.monotonic() - self._drawn > _REDRAW_SECONDS:
            self._draw()

    def _take(self, event: Progress) -> None:
        self._progress = event
        self.items = f"{event.total:,} {event.unit}"
        self.tokens_per_second = event.tokens_per_second or self.tokens_per_second

    def note(self, text: str) -> None:
        """Write a line of its own above the progress."""
        self._clear()
        print(f"    {text}", file=self._stream, flush=True)

    def end(self, text: str) -> None:
        """Replace the progress by its outcome."""
        self._clear()
        print(f"{self.title}  {text}", file=self._stream, flush=True)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        parts = [self.title, self._part] if self._part else [self.title]
        if self._progress:
            done, total = self._progress.done, self._progress.total
            parts.append(f"{bar(done, total)} {done:,} of {self.items}")
        if self.tokens_per_second:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        parts += [self._values] if self._values else []
        self._stream.write(f"\r\x1b[2K{'  '.join(parts)}  {clock(time.monotonic() - self._start)}")
        self._stream.flush()

    def _clear(self) -> None:
        if self._live:
            self._stream.write("\r\x1b[2K")

    def __enter__(self) -> Self:
        """Show that the work has begun."""
        if self._live:
            self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no half-drawn line behind."""
        if kind is not None:
            self.end("stopped" if issubclass(kind, KeyboardInterrupt) else "failed")
