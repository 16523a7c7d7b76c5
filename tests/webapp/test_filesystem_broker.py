"""Messages in a folder are taken whole, however many write and read at once."""

import contextlib
import os
import queue as queues
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.transport import filesystem
from kombu.utils.json import dumps
from pytest_django import Settings

from webapp.runs import filesystem_broker
from webapp.runs.filesystem_broker import Transport
from webapp.runs.queue import broker_settings

WRITERS, MESSAGES = 4, 150


def connected() -> Any:
    options = broker_settings()
    return Connection(options["broker_url"], transport_options=options["broker_transport_options"])


def test_celery_uses_the_transport_whose_messages_appear_whole(settings: Settings) -> None:
    with connected() as connection:
        assert isinstance(connection.transport, Transport)


def test_no_message_can_be_seen_before_it_is_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []

    def watched(payload: Any) -> str:
        seen.extend(path.name for path in (tmp_path / "broker" / "messages").glob("*.msg"))
        return dumps(payload)

    monkeypatch.setattr(filesystem, "dumps", watched)  # where kombu makes the file first
    monkeypatch.setattr(filesystem_broker, "dumps", watched)
    with (
        connected() as connection,
        connection.SimpleQueue("first") as box,
    ):  # kombu remembers per process what it has declared
        box.put("first")
        written = [path.suffix for path in (tmp_path / "broker" / "messages").iterdir()]

    assert seen == []
    assert written == [".msg"]


def test_every_message_arrives_whole_while_others_are_written(settings: Settings) -> None:
    def write(writer: int) -> None:
        with connected() as connection, connection.SimpleQueue("many") as box:
            for number in range(MESSAGES):
                box.put({"writer": writer, "number": number, "filler": "x" * 20_000})

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for writer in writers:
        writer.start()
    found = []
    with connected() as connection, connection.SimpleQueue("many") as box:
        while len(found) < WRITERS * MESSAGES:
            try:
                message = box.get(timeout=20)
            except queues.Empty:
                break
            found.append((message.payload["writer"], message.payload["number"]))
            message.ack()
    for writer in writers:
        writer.join()

    assert sorted(found) == [(writer, number) for writer in range(WRITERS) for number in range(MESSAGES)]


def test_a_child_that_is_forked_while_a_thread_binds_a_queue_can_bind_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(payload: Any) -> str:
        binding.set()
        time.sleep(0.5)
        return dumps(payload)

    binding = threading.Event()
    monkeypatch.setattr(filesystem_broker, "dumps", slowly)
    thread = threading.Thread(target=bind, args=("parent",))
    thread.start()
    assert binding.wait(10)
    if not (child := os.fork()):
        with contextlib.suppress(Exception):
            bind("child")
            os._exit(0)
        os._exit(1)
    thread.join()
    deadline = time.monotonic() + 10
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def bind(name: str) -> None:
    with connected() as connection, connection.SimpleQueue(name):
        pass
