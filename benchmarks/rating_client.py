"""A rater at a browser without a script: keeps cookies and the connection, reads forms, sends them back.

Used by the load benchmark and by the test that kills servers under raters. It is cheap on purpose, as it shares the
processors with what it measures.
"""

import contextlib
import html
import http.client
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import urlencode

_HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')
_TASK = re.compile(r'<form id="task".*?</form>', re.DOTALL)
_RAW = re.compile(r'<pre class="as-written" dir="auto">\n(.*?)</pre>', re.DOTALL)
_SAID = re.compile(r'<li class="note (\w+)">.*?<span>(.*?)</span></li>', re.DOTALL)
_FORM = "application/x-www-form-urlencoded"
_KEPT_ALIVE = 4.0  # seconds; the server ends connections that were idle for five


class RefusedError(Exception):
    """The product answered, and with something else than it should."""


@dataclass(frozen=True)
class Reply:
    """What came back for one request."""

    status: int
    text: str
    location: str
    seconds: float

    @property
    def said(self) -> list[tuple[str, str]]:
        """Return the messages on the page as (level, sentence)."""
        return [(level, html.unescape(sentence)) for level, sentence in _SAID.findall(self.text)]


@dataclass(frozen=True)
class Task:
    """The task on a page: what its form sends unseen, and the texts: the prompt, then the responses from left."""

    hidden: dict[str, str]
    texts: list[str]


def task_of(page: str) -> Task | None:
    """Return the task of a page; None when it has none."""
    form = _TASK.search(page)
    if form is None:
        return None
    hidden = {name: html.unescape(value) for name, value in _HIDDEN.findall(form[0])}
    return Task(hidden, [html.unescape(text) for text in _RAW.findall(form[0])])


class RaterClient:
    """One rater's browser: a connection that is kept alive, and cookies."""

    def __init__(self, port: int, *, timeout: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._cookies: dict[str, str] = {}
        self._used = 0.0

    def accept(self, invitation: str) -> str:
        """Accept an invitation, and return the path of the page to rate on."""
        path = f"/rate/invitation/{invitation}/"
        reply = self.get(path)
        forms = dict(_HIDDEN.findall(reply.text))
        if "csrfmiddlewaretoken" not in forms:
            message = f"the invitation's page answered {reply.status}: {reply.text[:300]}"
            raise RefusedError(message)
        reply = self.post(path, {"csrfmiddlewaretoken": forms["csrfmiddlewaretoken"]})
        if not reply.location.startswith("/rate/"):
            message = f"accepting the invitation answered {reply.status}: {reply.text[:300]}"
            raise RefusedError(message)
        return reply.location

    def get(self, path: str) -> Reply:
        """Ask for a page."""
        return self._ask("GET", path, None, {})

    def post(self, path: str, fields: Mapping[str, str], *, as_script: bool = False) -> Reply:
        """Send a form, as a browser does, or as the page's script does, which wants JSON back."""
        headers = {"Content-Type": _FORM} | ({"Accept": "application/json"} if as_script else {})
        return self._ask("POST", path, urlencode(fields), headers)

    def close(self) -> None:
        """End the connection; the next request opens another."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> Reply:
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        if time.monotonic() - self._used > _KEPT_ALIVE:
            self._connection.close()
        started = time.perf_counter()
        try:
            self._connection.request(method, path, body, {**headers, "Cookie": cookies})
            response = self._connection.getresponse()
            text = response.read().decode()
        except BaseException:
            self._connection.close()  # in the middle of a reply it is of no use
            raise
        seconds, self._used = time.perf_counter() - started, time.monotonic()
        for line in response.headers.get_all("Set-Cookie", []):
            self._keep(line)
        return Reply(response.status, text, response.headers.get("Location", ""), seconds)

    def _keep(self, line: str) -> None:
        for name, morsel in SimpleCookie(line).items():
            if morsel["max-age"] == "0" or not morsel.value:
                with contextlib.suppress(KeyError):
                    del self._cookies[name]
            else:
                self._cookies[name] = morsel.coded_value
