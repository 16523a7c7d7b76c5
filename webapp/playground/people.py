"""Who a request of the playground comes from: Django's session, asked again after some seconds.

Gradio's app runs outside of Django, so nothing of its middleware stands before it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.db import connection
from django.http import HttpRequest

from webapp.accounts.models import User

CACHE_SECONDS = 10.0
_CACHED = 1000  # sessions

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    name: str
    may_research: bool


def in_database(function: Callable[P, R]) -> Callable[P, R]:
    """Close the connection after each call: threads of a pool would keep one each, and Gradio's pool is large."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        finally:
            if not connection.in_atomic_block:
                connection.close()

    return called


class People:
    """Finds who is signed in by the cookie, and remembers it for at most `CACHE_SECONDS`."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, Person | None]] = OrderedDict()

    async def of(self, scope: dict[str, Any]) -> Person | None:
        """Return who sent this request; None when nobody is signed in."""
        key = session_key(scope)
        if not key:
            return None
        until, person = self._known.get(key, (0.0, None))
        if time.monotonic() < until:
            return person
        person = await sync_to_async(in_database(_person), thread_sensitive=False)(key)
        self._known[key] = (time.monotonic() + CACHE_SECONDS, person)
        self._known.move_to_end(key)
        while len(self._known) > _CACHED:
            self._known.popitem(last=False)
        return person


def session_key(scope: dict[str, Any]) -> str:
    """Return the session's key from the request's cookies, or nothing."""
    cookies = SimpleCookie()
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                cookies.load(value.decode("latin-1"))
            except CookieError:
                return ""
    morsel = cookies.get(settings.SESSION_COOKIE_NAME)
    return morsel.value if morsel is not None else ""


def _person(key: str) -> Person | None:
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    user = get_user(request)
    return Person(user.username, user.may_research) if isinstance(user, User) and user.is_active else None
