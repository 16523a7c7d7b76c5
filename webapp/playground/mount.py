"""The playground as a part of an ASGI process: in the product's own on one machine, in one of its own in a team.

Gradio takes seconds and memory to import, so that happens at the first request that the guard lets through.
"""

import asyncio
import contextlib
from typing import Any

from webapp.playground.guard import App, Guard, Message, Receive, Scope, Send

PREFIX = "/playground"
# Browsers ask for /favicon.ico while Gradio's page has not said yet what its icon is.
_MOVED = {PREFIX: f"{PREFIX}/", "/favicon.ico": "/static/icon.svg"}


class Playground:
    """An ASGI app that serves the playground under /playground/ and gives everything else to `otherwise`."""

    def __init__(self, otherwise: App) -> None:
        self._otherwise = otherwise
        self._guard = Guard(_Lazy(), PREFIX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        root, path = str(scope.get("root_path", "")), str(scope.get("path", ""))
        route = path[len(root) :] if root and path.startswith(f"{root}/") else path
        if scope["type"] == "http" and route in _MOVED:
            headers = [(b"location", f"{root}{_MOVED[route]}".encode("latin-1"))]
            await send({"type": "http.response.start", "status": 302, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        elif route.startswith(f"{PREFIX}/"):
            await self._guard(scope, receive, send)
        else:
            await self._otherwise(scope, receive, send)


async def nothing_else(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer what a process that has nothing but the playground does not know."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": b"This process serves /playground/ only.\n"})


class _Lazy:
    """Gradio's app, made and started at the first request."""

    def __init__(self) -> None:
        self._app: Any = None
        self._lock = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            async with self._lock:
                if self._app is None:
                    from webapp.playground.gradio_app import build

                    app = await asyncio.to_thread(build, PREFIX)
                    await self._stack.enter_async_context(app.router.lifespan_context(app))
                    self._app = app
        await self._app(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Tell the server that there is nothing to wait for at the start or the end."""
    while True:
        message: Message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
