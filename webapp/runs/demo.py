"""Drives the running product over HTTP as a person with a browser would: sign in, import, preview, launch, watch.

`manage.py demo` and `manage.py demo_real` are made of these steps. Nothing here touches the database.
"""

import re
import secrets
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.protocol import Progress
from rso_core.terminal import Line, clock
from webapp.runs.browser import Browser, Page, sign_in
from webapp.runs.forms import form_data

POLL_SECONDS = 0.5
_FINAL = frozenset({"done", "failed", "stopped", "out_of_memory"})


class Visitor:
    """A person at work in the product."""

    def __init__(self, browser: Browser, say: Callable[[str], object]) -> None:
        self.browser = browser
        self._say = say

    def enter(self, *, link: str = "", username: str = "", password: str = "") -> None:
        """Sign in. A one-time link sets a new password, which is told so that the same account can be used by hand."""
        if not link:
            sign_in(self.browser, username=username, password=password)
            return
        password = password or secrets.token_urlsafe(9)
        sign_in(self.browser, link=link, password=password)
        self._say(f"Signed in by the one-time link. The password of this account is now {password}")

    def import_dataset(self, name: str, values: Mapping[str, str], file: Path | None = None) -> int:
        """Import a dataset through the page, unless there is one of that name, and wait for it; return its number."""
        files = {"file": file} if file else {}
        return self._imported("datasets", name, values, files)

    def import_model(self, name: str, values: Mapping[str, str], file: Path | None = None) -> int:
        """Register a model through the page, unless there is one of that name, and wait for it; return its number."""
        return self._imported("models", name, values, {"file": file} if file else {})

    def derive_targets(self, dataset: int, name: str) -> int:
        """Make the SFT dataset of a preference dataset's chosen replies by the button on its page, and wait for it."""
        number = self._existing("datasets", name)
        if number is None:
            page = self.browser.get(f"/datasets/{dataset}/")
            number = self._number(
                self.browser.submit(page, {"name": name}, to=f"/datasets/{dataset}/derive/"), "datasets"
            )
        self._wait_imported("datasets", number, name)
        return number

    def _imported(self, what: str, name: str, values: Mapping[str, str], files: Mapping[str, Path]) -> int:
        number = self._existing(what, name)
        if number is None:
            page = self.browser.get(f"/{what}/new/")
            number = self._number(self.browser.submit(page, {"name": name, **values}, files=files), what)
        self._wait_imported(what, number, name)
        return number

    def _existing(self, what: str, name: str) -> int | None:
        page = self.browser.get(f"/{what}/?q={urllib.parse.quote(name)}")
        found = re.search(rf'<a href="/{what}/(\d+)/">{re.escape(name)}</a>', page.text)
        return int(found[1]) if found else None

    def _number(self, page: Page, what: str) -> int:
        """Return the number in the address that a form led to. Raises UserError with what the page says otherwise."""
        found = re.fullmatch(rf"/{what}/(\d+)/", page.path)
        if found is None:
            message = f"{page.path} did not accept the form: {page.errors() or page.words()[:400]}"
            raise UserError(message)
        return int(found[1])

    def _wait_imported(self, what: str, number: int, name: str) -> None:
        with Line(f"import {name}") as line:
            while True:
                page = self.browser.get(f"/{what}/{number}/status/")
                if "data-poll-reload" in page.text or not page.text.strip():
                    break
                line.show(Progress(done=0, total=1, unit="import"))
                time.sleep(POLL_SECONDS)
            if "data-running" in page.text or "Imported." not in page.text:
                message = f"the import of {name} failed: {page.words()[:400]}"
                raise UserError(message)
            line.end("done")

    def launch(self, config: RunConfig) -> int:
        """Preview a run on the page New run, wait for its length profile, launch it; return its number."""
        form = form_data(config)
        preview = self._preview(form)
        with Line(f"preview {config.name}") as line:
            while 'value="launch"' not in self._profile(preview):
                line.show(Progress(done=0, total=1, unit="length profile"))
                time.sleep(POLL_SECONDS)
            line.end("ready to launch")
        return self._number(self.browser.submit(preview, {**form, "action": "launch"}), "runs")

    def _preview(self, form: Mapping[str, str]) -> Page:
        page = self.browser.submit(self.browser.get("/runs/new/"), {**form, "action": "preview"})
        if "/runs/new/profile/" not in page.text and 'value="launch"' not in page.text:
            message = f"the run cannot be planned: {page.errors() or page.words()[:400]}"
            raise UserError(message)
        return page

    def _profile(self, preview: Page) -> str:
        found = re.search(r"/runs/new/profile/\d+/", preview.text)
        if found is None:
            return preview.text
        page = self.browser.get(found[0])
        if "Preview again to try once more" in page.text:
            message = f"the length profile could not be made: {page.words()[:400]}"
            raise UserError(message)
        return page.text

    def watch(self, runs: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Show how far runs are until all have ended; return their last status by name. Raises UserError on a failure."""
        board = _Board(runs)
        while True:
            statuses = {name: self.browser.status(f"/runs/{number}/status.json") for name, number in runs.items()}
            board.show(statuses)
            if all(status["status"] in _FINAL for status in statuses.values()):
                break
            time.sleep(POLL_SECONDS)
        for name, status in statuses.items():
            if status["status"] != "done":
                message = f"{name} ended as {status['status'].replace('_', ' ')}: {status['message']}"
                raise UserError(message)
        return statuses


class _Board:
    """One line for each stage that finishes, and a live line for the one that is being done."""

    def __init__(self, names: Sequence[str] | Mapping[str, int]) -> None:
        self._width = max(map(len, names))
        self._ended: set[tuple[str, str]] = set()
        self._live: dict[tuple[str, str], Line] = {}

    def show(self, statuses: Mapping[str, Mapping[str, Any]]) -> None:
        """Take up what the runs say now."""
        for name, status in statuses.items():
            for stage in status["stages"]:
                self._show_stage(name, stage)

    def _show_stage(self, name: str, stage: Mapping[str, Any]) -> None:
        key = (name, stage["key"])
        if key in self._ended or stage["status"] not in {"running", *_FINAL}:
            return
        line = self._live.setdefault(key, Line(f"{name:<{self._width}}  {stage['title']:<24}"))
        if stage["status"] == "running" and stage["total"]:
            event = Progress(
                done=stage["done"],
                total=stage["total"],
                unit=stage["unit"],
                tokens_per_second=stage["tokens_per_second"],
            )
            line.show(event)
        elif stage["status"] in _FINAL:
            self._ended.add(key)
            line.end(_outcome(stage))


def _outcome(stage: Mapping[str, Any]) -> str:
    words = [stage["status"].replace("_", " ")]
    words += [clock(stage["seconds"])] if stage["seconds"] is not None else []
    words += [f"{stage['total']:,} {stage['unit']}"] if stage["total"] else []
    words += [f"{stage['tokens_per_second']:,.0f} tokens/s"] if stage["tokens_per_second"] else []
    return "  ".join([*words, "shared with an earlier run"] if stage["reused"] else words)


def interval(value: Mapping[str, Any] | None) -> str:
    """Return a rate with its 95 % interval in percent."""
    if not value:
        return "–"
    return f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def bounds(value: Mapping[str, Any]) -> dict[str, float]:
    """Return value, low and high of an interval, as fractions of 1."""
    return {name: float(value[name]) for name in ("value", "low", "high")}
