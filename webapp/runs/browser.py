"""A small browser for commands that use the product as people do: cookies, forms with their hidden fields, redirects."""

import html
import json
import re
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

from rso_core.errors import TransientError, UserError

_TIMEOUT_SECONDS = 300  # an upload of a model on a busy machine
_STATUS_WITH_PAGE = (400, 403, 404, 409, 410, 413)  # the product's own pages, which say what is wrong


@dataclass(frozen=True)
class Page:
    """A page that arrived: where it is after redirects, and its text."""

    url: str
    text: str

    @property
    def path(self) -> str:
        """Return the path of its address."""
        return urllib.parse.urlsplit(self.url).path

    def form_with(self, names: Iterable[str]) -> dict[str, str]:
        """Return the fields, as a browser would send them untouched, of the form that has most of these names."""
        finder = _Forms()
        finder.feed(self.text)
        wanted = set(names)
        return max(finder.forms, key=lambda form: len(wanted & form.keys()), default={})

    def words(self) -> str:
        """Return the readable text of its main part, on one line."""
        main = re.search(r"<main.*?</main>", self.text, re.DOTALL)
        shown = re.sub(
            r"<(script|style|select|option).*?</\1>|<[^>]+>", " ", main[0] if main else self.text, flags=re.DOTALL
        )
        return " ".join(html.unescape(shown).split())

    def errors(self) -> str:
        """Return what the page says is wrong, on one line; empty where it says nothing."""
        found = re.findall(
            r'<[^>]+(?:class="[^"]*\berror\w*\b[^"]*"|role="alert")[^>]*>(.*?)</(?:p|ul|div|li|section)>',
            self.text,
            re.DOTALL,
        )
        return " ".join(" ".join(html.unescape(re.sub(r"<[^>]+>", " ", part)).split()) for part in found)


class _Forms(HTMLParser):
    """Collects the fields of each form with the values that a browser would send. An empty one is kept: it has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict[str, str]] = []
        self._select, self._is_first = "", True

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a form, or a field of the present one."""
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append({})
        elif not self.forms:
            return
        elif tag == "input":
            self._take_input(values)
        elif tag in {"select", "textarea"}:
            self._select, self._is_first = values.get("name", ""), True
            self.forms[-1].setdefault(self._select, "")
        elif tag == "option":
            if self._is_first or "selected" in values:
                self.forms[-1][self._select] = values.get("value", "")
            self._is_first = False

    def _take_input(self, values: Mapping[str, str]) -> None:
        name, kind = values.get("name", ""), values.get("type", "text")
        chosen = kind not in {"radio", "checkbox"} or "checked" in values
        if name and chosen and kind not in {"file", "submit", "button"}:
            self.forms[-1][name] = values.get("value", "on" if kind == "checkbox" else "")


class Browser:
    """Talks to the product at `base_url`, keeping its cookies."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def get(self, path: str) -> Page:
        """Fetch a page of the product."""
        return self._send(urllib.request.Request(self._address(path)))  # noqa: S310 - our own address

    def status(self, path: str) -> dict[str, Any]:
        """Fetch JSON."""
        value: dict[str, Any] = json.loads(self.get(path).text)
        return value

    def submit(
        self, page: Page, values: Mapping[str, str], *, files: Mapping[str, Path] | None = None, to: str = ""
    ) -> Page:
        """Send the form of a page that these values belong to (to another address with `to`), its other fields untouched."""
        address = self._address(to) if to else page.url
        body, kind = _multipart({**page.form_with([*values, *(files or {})]), **values}, files or {})
        headers = {"Content-Type": kind, "Referer": page.url}
        return self._send(urllib.request.Request(address, data=body, headers=headers, method="POST"))  # noqa: S310 - our own address

    def _address(self, path: str) -> str:
        return path if path.startswith("http") else f"{self.base_url}{path}"

    def _send(self, request: urllib.request.Request) -> Page:
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                return Page(answer.geturl(), answer.read().decode("utf-8"))
        except urllib.error.HTTPError as error:
            if error.code in _STATUS_WITH_PAGE:
                return Page(error.geturl() or request.full_url, error.read().decode("utf-8", errors="replace"))
            message = f"{request.full_url} answered {error.code} {error.reason}; see the log of the web process"
            raise TransientError(message) from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            message = f"nothing answers at {self.base_url} ({error}); start the product with make up, or correct --url"
            raise TransientError(message) from error


def _multipart(values: Mapping[str, str], files: Mapping[str, Path]) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    parts = []
    for name, value in values.items():
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    for name, path in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts.append(head.encode() + path.read_bytes() + b"\r\n")
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def sign_in(browser: Browser, *, link: str = "", username: str = "", password: str = "") -> None:
    """Sign in, by a one-time link (which sets `password`) or by name and password. Raises UserError."""
    page = browser.get(link or "/sign-in/")
    if link:
        page = browser.submit(page, {"new_password1": password, "new_password2": password})
    else:
        page = browser.submit(page, {"username": username, "password": password})
    if page.path.startswith(("/sign-in", "/first-sign-in")):
        message = f"signing in failed: {page.errors() or page.words()[:300]}"
        raise UserError(message)
