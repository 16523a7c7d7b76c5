"""The polled parts of run pages, made once for everybody who looks: an ASGI app that stands before Django.

The page of a run asks for its live parts every two seconds. Django makes each of them at most every `FRESH_SECONDS`,
for one of those who ask; the others get the same bytes. What is shown depends on the run, on what the address asks
and on whether an admin looks, and on nothing else of whoever looks.

Who may look is asked again after `TRUSTED_SECONDS` at the latest: that long somebody may go on seeing the live parts of
one run after they have signed out or the run is no longer shared with them, if another process took that change. What
changes through this process counts at once, as every form that is sent forgets what is known of everybody.
"""

import asyncio
import re
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.db import close_old_connections
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host

from webapp.accounts.models import User
from webapp.bridge import App, Message, Receive, Scope, Send
from webapp.runs.models import Run

FRESH_SECONDS = 0.5
TRUSTED_SECONDS = 10.0
_VIEWERS, _SNAPSHOTS = 10_000, 64  # most that are remembered
_THREADS = 2

_POLLED = re.compile(r"/runs/(\d{1,9})/(live|curves)/")
_QUERIES = frozenset({b"", b"was=live", b"was=ended"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Forms that say nothing of who may see a run, and that come often.
_UNRELATED = ("/rate/", "/playground/")
_OK = 200


@dataclass(frozen=True)
class _Viewer:
    """What is known of somebody who looks at a run: whether they may, and as what."""

    until: float
    may_look: bool
    is_admin: bool


@dataclass(frozen=True)
class _Snapshot:
    """An answer of Django. `head` and `body` are what everybody gets, `etag` what they send back to be told of changes."""

    until: float
    etag: bytes
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def is_for_all(self) -> bool:
        """Return whether it may be given to others than who asked for it."""
        return self.status == _OK and bool(self.etag) and not any(name == b"set-cookie" for name, _ in self.headers)


class SharedPolls:
    """Answers polls of run pages itself where it can, and gives everything else to `otherwise`."""

    def __init__(self, otherwise: App) -> None:
        self._otherwise = otherwise
        self._viewers: OrderedDict[tuple[str, int], _Viewer] = OrderedDict()
        self._snapshots: OrderedDict[tuple[Any, ...], _Snapshot] = OrderedDict()
        self._made: dict[tuple[Any, ...], asyncio.Task[Any]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="polls")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        snapshot = await self._shared(scope) if scope["type"] == "http" else None
        if snapshot is not None:
            await _answer(scope, send, snapshot)
            return
        await self._otherwise(scope, receive, send)
        if (
            scope["type"] == "http"
            and scope["method"] not in _SAFE_METHODS
            and not _route(scope).startswith(_UNRELATED)
        ):
            self._viewers.clear()

    async def _shared(self, scope: Scope) -> _Snapshot | None:
        """Return what everybody gets who asks this; None where Django has to answer, be it to say no."""
        route = _route(scope)
        found = _POLLED.fullmatch(route)
        if found is None or scope["method"] != "GET" or scope["query_string"] not in _QUERIES or not _is_for_us(scope):
            return None
        session = _cookie(scope, settings.SESSION_COOKIE_NAME)
        viewer = await self._viewer(session, int(found[1])) if session else None
        if viewer is None or not viewer.may_look:
            return None
        snapshot = await self._snapshot((route, scope["query_string"], viewer.is_admin), scope)
        return snapshot if snapshot.is_for_all else None

    async def _viewer(self, session: str, run: int) -> _Viewer:
        key = (session, run)
        known = self._viewers.get(key)
        if known is not None and time.monotonic() < known.until:
            return known
        viewer: _Viewer = await self._once(
            key, asyncio.get_running_loop().run_in_executor, self._pool, _looked_up, session, run
        )
        _remember(self._viewers, key, viewer, most=_VIEWERS)
        return viewer

    async def _snapshot(self, key: tuple[Any, ...], scope: Scope) -> _Snapshot:
        known = self._snapshots.get(key)
        if known is not None and time.monotonic() < known.until:
            return known
        snapshot: _Snapshot = await self._once(key, _made_by, self._otherwise, scope)
        _remember(self._snapshots, key, snapshot, most=_SNAPSHOTS)
        return snapshot

    async def _once(self, key: tuple[Any, ...], make: Any, *arguments: Any) -> Any:
        """Make something that several may ask for at once: the first starts it, all wait for it."""
        task = self._made.get(key)
        if task is None:
            task = self._made[key] = asyncio.ensure_future(make(*arguments))
            task.add_done_callback(lambda _: self._made.pop(key, None))
        return await asyncio.shield(task)  # who asked first may have gone when the others still wait


def _remember(known: OrderedDict[Any, Any], key: Any, value: Any, *, most: int) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)


def _looked_up(session: str, run: int) -> _Viewer:
    """Ask the database who a session belongs to and whether they see the run."""
    close_old_connections()
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session)
    user = get_user(request)
    may_look = isinstance(user, User) and user.is_active and Run.objects.visible_to(user).filter(pk=run).exists()
    is_admin = isinstance(user, User) and user.is_admin
    return _Viewer(time.monotonic() + TRUSTED_SECONDS, may_look, is_admin)


async def _made_by(app: App, scope: Scope) -> _Snapshot:
    """Let Django answer a request as if nothing of it had been seen before."""
    unconditional = [item for item in scope["headers"] if item[0] not in {b"if-none-match", b"if-modified-since"}]
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    until = time.monotonic() + FRESH_SECONDS  # from when it was asked for: it is as old as what it was read from
    await app({**scope, "headers": unconditional}, receive, send)
    head, *pieces = messages
    etag = next((value for name, value in head["headers"] if name == b"etag"), b"")
    body = b"".join(piece.get("body", b"") for piece in pieces)
    return _Snapshot(until, etag, head["status"], head["headers"], body)


async def _answer(scope: Scope, send: Send, snapshot: _Snapshot) -> None:
    known = next((value for name, value in scope["headers"] if name == b"if-none-match"), b"")
    is_new = known != snapshot.etag
    headers = snapshot.headers if is_new else [item for item in snapshot.headers if not item[0].startswith(b"content-")]
    await send({"type": "http.response.start", "status": _OK if is_new else 304, "headers": headers})
    await send({"type": "http.response.body", "body": snapshot.body if is_new else b""})


def _route(scope: Scope) -> str:
    """Return the path below what the server is mounted at."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _is_for_us(scope: Scope) -> bool:
    """Return whether Django would answer the request at all, by its host and its scheme."""
    if settings.SECURE_SSL_REDIRECT and scope.get("scheme") != "https":
        return False
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS)


def _cookie(scope: Scope, wanted: str) -> str:
    """Return the value of a cookie; nothing when it is sent twice, as it is not said then which one counts."""
    sent = b"; ".join(value for name, value in scope["headers"] if name == b"cookie").decode("latin-1").split("; ")
    values = [value for name, _, value in (pair.partition("=") for pair in sent) if name == wanted]
    return values[0].strip('"') if len(values) == 1 else ""
