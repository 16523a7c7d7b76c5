"""Lets Django's threads answer for an ASGI server, with as few switches between threads as there can be.

Whoever takes the interpreter's lock from a thread that computes waits up to the switch interval (5 ms) for it, once for
each of the threads that compute. A bridge that hands over the head, each piece and the end of an answer one by one makes
the thread and the event loop wait for each other every time, so that waits grow with the number of busy threads. Here
a request that fits in memory goes to its thread whole, and so does its answer come back.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

from a2wsgi.wsgi import Body, build_environ

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_WHOLE_BYTES = 1 << 20  # of a request; longer ones are read by the thread as they arrive
_TOGETHER_BYTES = 1 << 18  # of an answer of known length that is sent in one piece although it comes in several


class Bridge:
    """An ASGI app that runs a WSGI app on a fixed number of threads."""

    def __init__(self, app: WSGIApp, *, threads: int) -> None:
        self._app = app
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="web")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await _without_requests(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        body = await _body(receive, loop)
        if body is None:
            return
        answer = _Answer(loop, send, receive if isinstance(body, io.BytesIO) else None)
        try:
            await loop.run_in_executor(self._pool, self._called, build_environ(scope, body), answer)
        finally:
            answer.end()
        for message in answer.waiting:
            await send(message)

    def _called(self, environ: dict[str, Any], answer: "_Answer") -> None:
        chunks = self._app(environ, answer.start)
        with closing(chunks) if hasattr(chunks, "close") else nullcontext():  # type: ignore[type-var]
            if getattr(chunks, "streaming", False) and not answer.is_short:
                for chunk in chunks:
                    answer.send_now(chunk)
                    if answer.is_left:  # the rest of a long file would keep this thread for nobody
                        return
                answer.send_now(b"", more=False)
            else:
                answer.keep(b"".join(chunks))


@dataclass
class _Answer:
    """The answer to one request, as its thread makes it. `waiting` is what the event loop sends when the thread is through.

    `is_left`: the client of an answer that is sent piece by piece has gone.
    """

    loop: asyncio.AbstractEventLoop
    send: Send
    receive: Receive | None  # None while the thread reads the request's body from it
    waiting: list[Message] = field(default_factory=list)
    is_short: bool = False
    is_left: bool = False
    watch: "asyncio.Task[None] | None" = None

    def start(self, status: str, headers: Iterable[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        """Take status and headers; what WSGI calls `start_response`. Raises what the app failed with."""
        if exc_info is not None:
            raise exc_info[1]
        named = [(name.strip().encode("latin1").lower(), value.strip().encode("latin1")) for name, value in headers]
        length = next((int(value) for name, value in named if name == b"content-length" and value.isdigit()), None)
        self.is_short = length is not None and length <= _TOGETHER_BYTES
        self.waiting = [{"type": "http.response.start", "status": int(status.split(" ", 1)[0]), "headers": named}]
        return self.send_now

    def keep(self, body: bytes) -> None:
        """Take the whole body."""
        self.waiting.append({"type": "http.response.body", "body": body})

    def send_now(self, chunk: bytes, *, more: bool = True) -> None:
        """Send the next piece of a long answer, once the client has taken the one before."""
        self.waiting.append({"type": "http.response.body", "body": chunk, "more_body": more})
        messages, self.waiting = self.waiting, []
        asyncio.run_coroutine_threadsafe(self._send_all(messages), self.loop).result()

    def end(self) -> None:
        """Stop looking whether the client is still there."""
        if self.watch is not None:
            self.watch.cancel()

    async def _send_all(self, messages: list[Message]) -> None:
        if self.watch is None and self.receive is not None:
            self.watch = asyncio.ensure_future(self._until_left(self.receive))
        for message in messages:
            await self.send(message)

    async def _until_left(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_left = True


async def _body(receive: Receive, loop: asyncio.AbstractEventLoop) -> Any:
    """Return the body as a file: in memory when it is short, else one that reads on from the client; None if that left."""
    read = bytearray()
    more = True
    while more and len(read) <= _WHOLE_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None  # half a form is none, and nobody waits for an answer
        read += message.get("body", b"")
        more = message.get("more_body", False)
    if not more:
        return io.BytesIO(bytes(read))
    begun = False

    async def from_start() -> Message:
        nonlocal begun
        if begun:
            return await receive()
        begun = True
        return {"type": "http.request", "body": bytes(read), "more_body": True}

    return Body(loop, from_start)


async def _without_requests(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a websocket; tell the server that there is nothing to wait for at the start or the end."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
