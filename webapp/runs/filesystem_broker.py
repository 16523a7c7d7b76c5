"""Celery's broker in a folder, with messages that appear whole.

kombu's own transport makes a message's file and then fills it, and a worker that looks in between takes an empty message,
which it does not survive. Here a message is written under a name that nobody looks for and renamed.

It also remembers that a queue is bound before it has written so, and empties the table of bindings to write it: a message sent
in between went nowhere. Here threads wait for the one that binds, and the table is replaced as a whole.
"""

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

_BINDING = threading.Lock()
# A worker may fork a new child at any time. A child that got this lock, or the open file below, in the hands of a thread that it
# does not have would keep both for ever.
os.register_at_fork(before=_BINDING.acquire, after_in_parent=_BINDING.release, after_in_child=_BINDING.release)


class Channel(filesystem.Channel):  # type: ignore[misc]
    """A channel whose messages are there as a whole or not at all."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        # kombu takes the files in the order of their names, and a message is what ends in its queue's name and .msg.
        name = f"{round(time.monotonic() * 1000)}_{uuid4()}.{queue}.msg"
        partial = Path(self.data_folder_out) / f"{name}.partial"
        partial.write_text(dumps(payload), encoding="utf-8")
        partial.rename(partial.with_name(name))

    def queue_bind(self, *args: Any, **options: Any) -> None:
        """Bind a queue, and return when the binding can be seen, also when another thread is the one that binds it."""
        with _BINDING:
            super().queue_bind(*args, **options)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        self.control_folder.mkdir(exist_ok=True)
        wanted = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with (self.control_folder / "bindings.lock").open("w") as held:  # the lock ends with the file, or the process
            fcntl.flock(held, fcntl.LOCK_EX)
            table = self.get_table(exchange)
            if wanted not in table:
                file = self._exchange_file(exchange)
                partial = file.with_suffix(".partial")
                partial.write_text(dumps([wanted, *table]), encoding="utf-8")
                partial.rename(file)


class Transport(filesystem.Transport):  # type: ignore[misc]
    """kombu's transport with that channel."""

    Channel = Channel


def install() -> None:
    """Make `filesystem://` mean this transport in this process."""
    TRANSPORT_ALIASES["filesystem"] = f"{__name__}:Transport"
