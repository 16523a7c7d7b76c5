"""Celery's broker in a folder, with messages that appear whole.

kombu's own transport makes a message's file and then fills it, and a worker that looks in between takes an empty message,
which it does not survive. Here a message is written under a name that nobody looks for and renamed.
"""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):  # type: ignore[misc]
    """A channel whose messages are there as a whole or not at all."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        # kombu takes the files in the order of their names, and a message is what ends in its queue's name and .msg.
        name = f"{round(time.monotonic() * 1000)}_{uuid4()}.{queue}.msg"
        partial = Path(self.data_folder_out) / f"{name}.partial"
        partial.write_text(dumps(payload), encoding="utf-8")
        partial.rename(partial.with_name(name))


class Transport(filesystem.Transport):  # type: ignore[misc]
    """kombu's transport with that channel."""

    Channel = Channel


def install() -> None:
    """Make `filesystem://` mean this transport in this process."""
    TRANSPORT_ALIASES["filesystem"] = f"{__name__}:Transport"
