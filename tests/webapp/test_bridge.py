"""Django's threads behind an ASGI server: short things go over whole, long ones piece by piece, failures reach the server."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from webapp.bridge import Bridge, Message

LONG = 3 << 20


class Pieces:
    """An answer as Django's, that says whether it is closed."""

    closed = 0

    def __init__(self, pieces: Iterable[bytes], *, streaming: bool) -> None:
        self._pieces, self.streaming = pieces, streaming

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        Pieces.closed += 1


def ask(
    app: Any, *bodies: bytes, kind: str = "http", last: Message | None = None, leaves: bool = False
) -> list[Message]:
    """Return the messages that a bridge sends for a request whose body comes in these pieces, and whose client may leave."""
    sent: list[Message] = []
    coming: list[Message] = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    coming.append(last or {"type": "http.request", "body": b"", "more_body": False})
    coming += [{"type": "http.disconnect"}] if leaves else []
    scope = {
        "type": kind, "method": "POST", "path": "/somewhere/", "query_string": b"a=1", "http_version": "1.1",
        "headers": [(b"content-length", str(sum(map(len, bodies))).encode())],
    }  # fmt: skip

    async def receive() -> Message:
        if not coming:  # as a server does whose client stays
            await asyncio.Event().wait()
        return coming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    with ThreadPoolExecutor(1) as pool:  # in a thread of its own: a browser of an earlier test keeps a loop running
        pool.submit(asyncio.run, Bridge(app, threads=2)(scope, receive, send)).result()
    return sent


def answering(pieces: Iterable[bytes], *, streaming: bool, length: int | None = None) -> Callable[..., Pieces]:
    """Return a WSGI app that gives these pieces."""
    headers = [("X-Seen", "yes"), *([("Content-Length", str(length))] if length is not None else [])]

    def app(_: dict[str, Any], start_response: Any) -> Pieces:
        start_response("200 OK", headers)
        return Pieces(pieces, streaming=streaming)

    return app


def test_a_short_answer_goes_out_in_one_piece_and_is_closed() -> None:
    before = Pieces.closed
    head, *bodies = ask(answering([b"a", b"b"], streaming=False))
    assert (head["status"], (b"x-seen", b"yes") in head["headers"]) == (200, True)
    assert bodies == [{"type": "http.response.body", "body": b"ab"}]
    assert Pieces.closed == before + 1


def test_a_file_of_known_small_size_goes_out_in_one_piece_and_a_stream_as_it_is_made() -> None:
    assert len(ask(answering([b"a", b"b"], streaming=True, length=2))) == 2
    head, *bodies = ask(answering([b"a", b"b"], streaming=True))
    assert head["type"] == "http.response.start"
    assert [(body["body"], body["more_body"]) for body in bodies] == [(b"a", True), (b"b", True), (b"", False)]


@pytest.mark.parametrize("size", [0, 5, LONG])
def test_a_body_arrives_complete_whether_or_not_it_fits_in_memory(size: int) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [str(len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))).encode()]

    pieces = [b"x" * min(size - start, 1 << 16) for start in range(0, size, 1 << 16)]
    assert ask(app, *pieces)[-1]["body"] == str(size).encode()


def test_half_a_form_of_somebody_who_has_gone_is_not_acted_on() -> None:
    assert ask(answering([b"a"], streaming=False), b"half", last={"type": "http.disconnect"}) == []


def test_what_the_app_fails_with_reaches_the_server_also_in_the_middle_of_a_stream() -> None:
    def failing() -> Iterator[bytes]:
        yield b"a"
        message = "broken"
        raise ValueError(message)

    for streaming in (False, True):
        with pytest.raises(ValueError, match="broken"):
            ask(answering(failing(), streaming=streaming))


def test_a_file_that_nobody_waits_for_any_more_is_not_made_to_its_end() -> None:
    made = 0

    def endless() -> Iterator[bytes]:
        nonlocal made
        while made < 100_000:
            made += 1
            yield b"line"

    before = Pieces.closed
    sent = ask(answering(endless(), streaming=True), leaves=True)
    assert sent[0]["status"] == 200
    assert made < 1000
    assert Pieces.closed == before + 1


def test_websockets_are_refused() -> None:
    assert ask(answering([], streaming=False), kind="websocket") == [{"type": "websocket.close", "code": 1000}]
