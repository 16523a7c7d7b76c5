"""Stands around Gradio's app: whoever is not a researcher of this product never reaches it.

Gradio checks who is signed in on some of its routes only, believes X-Forwarded-Host, sends no security headers and
binds neither its sessions nor their events to a person. So every request is looked at here, only the routes that the
page needs are let through, and a session belongs to whoever used it first.
"""

import json
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from webapp.playground.people import CACHE_SECONDS, People, Person

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODY_BYTES = 1 << 20
_SESSIONS = 10_000
_SAFE_METHODS = frozenset({"GET", "HEAD"})
# What the page fetches. Uploads, files, proxies, streams of media and the programming interface are not among it.
_ROUTES = re.compile(
    r"/(|config/?|theme\.css|favicon\.ico|manifest\.json|(assets|static|svelte)/[^?]*"
    r"|gradio_api/(info|startup-events|app_id|theme\.css|queue/join|queue/data|cancel|reset"
    r"|heartbeat/[^/]+|run/[^/]+)/?)"
)
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _CONTENT_SECURITY_POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
# Gradio makes addresses of its own from these, whoever sent them. What a trusted proxy says is in the scope already.
_BELIEVED = frozenset(
    {b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-prefix", b"x-gradio-server"}
)
_NOT_OURS = frozenset(name for name, _ in _HEADERS) | {b"access-control-allow-origin", b"server"}


class _RefusedError(Exception):
    """The request goes no further: status, words, and where to go instead."""

    def __init__(self, status: int, words: str, location: str = "") -> None:
        super().__init__(words)
        self.status, self.words, self.location = status, words, location


class Guard:
    """An ASGI app around another one that is mounted at `prefix`."""

    def __init__(self, app: App, prefix: str) -> None:
        self._app, self._prefix = app, prefix
        self._people = People()
        self._sessions: OrderedDict[str, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            person = await self._admit(scope)
            receive = await self._bind_session(scope, receive, person)
        except _RefusedError as refused:
            await _answer(send, refused)
            return
        state = {**scope.get("state", {}), "playground_user": person.name}
        headers = [item for item in scope["headers"] if item[0] not in _BELIEVED]
        await self._pass_on({**scope, "state": state, "headers": headers}, receive, send)

    async def _admit(self, scope: Scope) -> Person:
        """Return who it is, once everything about the request is in order."""
        if not validate_host(split_domain_port(_header(scope, b"host"))[0], settings.ALLOWED_HOSTS):
            raise _RefusedError(400, "this host is not one of this server's (ALLOWED_HOSTS)")
        person = await self._people.of(dict(scope))
        route = _route(scope).removeprefix(self._prefix)
        if person is None:
            page = scope["method"] in _SAFE_METHODS and route in {"", "/"}
            raise _RefusedError(302 if page else 401, "sign in first", _sign_in(scope, self._prefix) if page else "")
        if not person.may_research:
            raise _RefusedError(403, "the playground is for researchers, and your account is a rater's")
        if not _ROUTES.fullmatch(route):
            raise _RefusedError(404, "there is nothing at this address")
        if scope["method"] not in _SAFE_METHODS and not _is_same_origin(scope):
            raise _RefusedError(403, "this request comes from another site's page")
        return person

    async def _bind_session(self, scope: Scope, receive: Receive, person: Person) -> Receive:
        """Refuse somebody else's session of Gradio; return what gives the body that was read for that."""
        route, query = _route(scope), parse_qs(scope["query_string"].decode("latin-1"))
        hashes = query.get("session_hash", [])
        if "/heartbeat/" in route:
            hashes.append(route.rstrip("/").rpartition("/")[2])
        if scope["method"] not in _SAFE_METHODS:
            body = await _body(receive)
            hashes += _hashes_in(body)
            receive = _replaying(body, receive)
        for session_hash in hashes:
            if self._sessions.setdefault(session_hash, person.name) != person.name:
                raise _RefusedError(403, "this session is somebody else's; load the page again")
            self._sessions.move_to_end(session_hash)
        while len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return receive

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app; add headers, and end an answer that goes on for longer than its reader may read it."""
        checked = time.monotonic()

        async def guarded(message: Message) -> None:
            nonlocal checked
            if message["type"] == "http.response.start":
                kept = [item for item in message["headers"] if item[0].lower() not in _NOT_OURS]
                message = {**message, "headers": [*kept, *_HEADERS]}
            elif time.monotonic() - checked > CACHE_SECONDS:
                checked = time.monotonic()
                person = await self._people.of(dict(scope))
                if person is None or not person.may_research:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    raise _EndedError
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        except _EndedError:
            return
        except BaseExceptionGroup as group:
            if group.split(_EndedError)[1] is not None:
                raise


class _EndedError(Exception):
    """The reader of an answer has signed out while it was sent."""


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


def _route(scope: Scope) -> str:
    """Return the path below what the server is mounted at."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _sign_in(scope: Scope, prefix: str) -> str:
    from django.urls import reverse

    root = str(scope.get("root_path", ""))
    return f"{root}{reverse(settings.LOGIN_URL)}?next={root}{prefix}/"


def _is_same_origin(scope: Scope) -> bool:
    """Return whether a page of this product sent the request, by Django's rule. Every browser names the origin."""
    origin = _header(scope, b"origin")
    if origin == f"{scope['scheme']}://{_header(scope, b'host')}":
        return True
    return origin in settings.CSRF_TRUSTED_ORIGINS and bool(urlsplit(origin).netloc)


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _BODY_BYTES:
            raise _RefusedError(413, "this is more than the playground takes at once")
        if not message.get("more_body", False):
            return bytes(body)


def _replaying(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _hashes_in(body: bytes) -> list[str]:
    """Return the session that the JSON of a request names. Raises _RefusedError for what is no JSON object."""
    if not body:
        return []
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, "the body must be JSON") from error
    if not isinstance(value, dict):
        raise _RefusedError(400, "the body must be a JSON object")
    named = value.get("session_hash")
    if named is None:
        return []
    if not isinstance(named, str):
        raise _RefusedError(400, "the session must be a text")
    return [named]


async def _answer(send: Send, refused: _RefusedError) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), *_HEADERS]
    if refused.location:
        headers.append((b"location", refused.location.encode("latin-1")))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    words = refused.words[:1].upper() + refused.words[1:] + ".\n"
    await send({"type": "http.response.body", "body": words.encode()})
