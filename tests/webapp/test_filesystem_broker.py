"""Messages in a folder are taken whole, however many write and read at once."""

import queue as queues
import threading
from typing import Any

from kombu import Connection
from pytest_django import Settings

from webapp.runs.filesystem_broker import Transport
from webapp.runs.queue import broker_settings

WRITERS, MESSAGES = 4, 150


def connected() -> Any:
    options = broker_settings()
    return Connection(options["broker_url"], transport_options=options["broker_transport_options"])


def test_celery_uses_the_transport_whose_messages_appear_whole(settings: Settings) -> None:
    with connected() as connection:
        assert isinstance(connection.transport, Transport)


def test_every_message_arrives_whole_while_others_are_written(settings: Settings) -> None:
    def write(writer: int) -> None:
        with connected() as connection, connection.SimpleQueue("gpu") as box:
            for number in range(MESSAGES):
                box.put({"writer": writer, "number": number, "filler": "x" * 20_000})

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for writer in writers:
        writer.start()
    found = []
    with connected() as connection, connection.SimpleQueue("gpu") as box:
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
