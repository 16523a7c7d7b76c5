"""Measure every page of the product over a full database, and a run page that 300 people watch.

    python -m benchmarks.web_pages [--repeat 20] [--viewers 300] [--seconds 40] [--only NAME …]

Fills a database of its own (`benchmarks/seed_database.py`) and starts the product over it; where RSO_VAR_DIR holds a seeded
folder and DATABASE_URL names its database, those are used and stay. Pages are asked for one after the other over HTTP, by an
admin, who sees everything, and by a rater; a file counts until its first byte. Then viewers, each in a session of their
own, poll the live parts of a run as browsers do (every 2 seconds, with the ETag they know), while a worker reports every
second: what counts is the processor time of the web process against the clock.

Writes `web_pages.json` and `web_viewers.json`; ends with one line of JSON. Exits with 1 when a page or the viewers miss.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import math
import os
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.every_page import QUESTIONS, Page, admin_pages, every_page, session_of, things_of
from benchmarks.harness import RESULTS, calibration_seconds, provenance, save
from benchmarks.rating_product import Served, seeded_product, started
from benchmarks.seed_database import NOTE, keep, seed, size_options, sizes_of

P95_MS, CORE_SHARE = 100.0, 0.4
_RUNS = ("rso", "dpo", "slic", "live", "failed")
_ONLY_FORMS = 405
_POLL_SECONDS = 2.0
_WARM_SECONDS = 12.0  # longer than the product trusts a session it has looked up


def main() -> None:
    """Measure, write the results, and say whether the targets are reached."""
    options = _options().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the product it started is stopped too
    results = []
    with _product(options) as (served, note):
        for wanted, measure in ((options.repeat, pages_result), (options.viewers, viewers_result)):
            if wanted:
                results.append(measure(served, note, options))
                save(results[-1], options.results)
    print(json.dumps({"rows": [{name: row[name] for name in ("name", "reached", "worst")} for row in results]}))
    sys.exit(not all(row["reached"] for row in results))


def _options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeat", type=int, default=20, help="measured requests of each page (default 20; 0: no pages)")
    made.add_argument("--only", nargs="*", default=[], metavar="NAME", help="measure the pages of these names only")
    made.add_argument("--viewers", type=int, default=300, help="people who watch the run (default 300; 0: none)")
    made.add_argument("--seconds", type=float, default=40.0, help="how long they are measured (default 40)")
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    made.set_defaults(threads=os.cpu_count(), dtype="no model")
    size_options(made)
    return made


@contextlib.contextmanager
def _product(options: argparse.Namespace) -> Iterator[tuple[Served, Mapping[str, Any]]]:
    """Yield the started product over a seeded database, and the note of what was seeded."""
    folder = Path(os.environ.get("RSO_VAR_DIR", "/nowhere"))
    if (folder / NOTE).exists():
        with started(folder) as served:
            _set_up()
            yield served, json.loads((folder / NOTE).read_text(encoding="utf-8"))
            _close()
        return
    with seeded_product(lambda: keep(seed(sizes_of(options)))) as served:
        note = Path(os.environ["RSO_VAR_DIR"]) / NOTE
        yield served, json.loads(note.read_text(encoding="utf-8"))


def _set_up() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    import django

    django.setup()


def _close() -> None:
    from django.db import connections

    connections.close_all()


# Pages -----------------------------------------------------------------------------------------------------------------


def pages_result(served: Served, note: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return what every page took, the slowest first."""
    cookies = _people(note["seeded"])
    before = calibration_seconds()
    asked = [page for page in _wanted(note["seeded"]) if not options.only or page.name in options.only]
    pages = [row for page in asked if (row := _measured(served, page, cookies[page.for_rater], options.repeat))]
    pages.sort(key=lambda row: -row["p95_ms"])
    missed = [row["path"] for row in pages if not row["download"] and row["p95_ms"] > P95_MS]
    return {
        "name": "web_pages",
        **provenance(options),
        **_surroundings(served, note, before),
        "target": {"p95_ms": P95_MS},
        "repeat": options.repeat,
        "pages": pages,
        "missed": missed,
        "reached": not missed,
        "worst": next((row["p95_ms"] for row in pages if not row["download"]), None),
    }


def _people(seeded: Mapping[str, Any]) -> dict[bool, str]:
    """Return the sessions of somebody who sees everything, and of a rater."""
    from webapp.accounts.models import User

    owner = User.objects.get(pk=seeded["owner"])
    return {False: session_of(user=owner), True: session_of(rater=seeded["rater"])}


def _wanted(seeded: Mapping[str, Any]) -> list[Page]:
    """Return the pages about the first run, with what people ask of them, those of the other runs, and the admin's."""
    found: dict[str, Page] = {}
    for run in _RUNS:
        for page in every_page(things_of(seeded, run)):
            for question in ("", *QUESTIONS.get(page.name, ())):
                path = page.path + question
                found.setdefault(path, Page(page.name, path, page.for_rater))
    return [*found.values(), *admin_pages()]


def _measured(served: Served, page: Page, cookie: str, repeat: int) -> dict[str, Any] | None:
    """Return the milliseconds of a page; None for an address that takes forms only."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    first, status, size = _asked(connection, page, cookie)
    if status == _ONLY_FORMS:
        return None
    for _ in range(2):  # every thread of the web process has its own connection to the database
        _asked(connection, page, cookie)
    times = sorted(_asked(connection, page, cookie)[0] for _ in range(repeat))
    connection.close()
    return {
        "name": page.name, "path": page.path, "status": status, "bytes": size, "download": page.is_download,
        "first_ms": round(first, 1), "p50_ms": round(statistics.median(times), 1), "p95_ms": round(p95(times), 1),
    }  # fmt: skip


def p95(times: Sequence[float]) -> float:
    """Return the smallest value that at least 95 % of the values do not exceed."""
    return sorted(times)[math.ceil(0.95 * len(times)) - 1]


def _asked(connection: http.client.HTTPConnection, page: Page, cookie: str) -> tuple[float, int, int]:
    """Return milliseconds, status and bytes of one request."""
    started_at = time.perf_counter()
    connection.request("GET", page.path, headers={"Cookie": f"sessionid={cookie}"})
    answer = connection.getresponse()
    body = answer.read(1 if page.is_download else None)
    milliseconds = (time.perf_counter() - started_at) * 1000
    if page.is_download:
        connection.close()  # the rest of the file is not waited for; the next request connects again
    return milliseconds, answer.status, len(body)


def _surroundings(served: Served, note: Mapping[str, Any], calibration: float) -> dict[str, Any]:
    return {
        "rows": note["rows"], "versions": served.versions(), "calibration_seconds": [calibration, calibration_seconds()],
        "load_average": os.getloadavg()[0],
    }  # fmt: skip


# Viewers ---------------------------------------------------------------------------------------------------------------


@dataclass
class Polls:
    """What the viewers got: answers by status, their bytes, and the milliseconds they waited."""

    statuses: Counter[int] = field(default_factory=Counter)
    bytes: int = 0
    waits: list[float] = field(default_factory=list)


def viewers_result(served: Served, note: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the share of a core that the web process needs for its viewers."""
    run, before = note["seeded"]["runs"]["live"], calibration_seconds()
    sessions = _viewers(options.viewers)
    with _reporting(run):
        polls, cpu, wall = asyncio.run(_watch(served, run, sessions, options.seconds))
    share = cpu / wall
    bad = {status: count for status, count in polls.statuses.items() if status not in {200, 304}}
    return {
        "name": "web_viewers",
        **provenance(options),
        **_surroundings(served, note, before),
        "target": {"core_share": CORE_SHARE},
        "viewers": options.viewers,
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 2),
        "core_share": round(share, 4),
        "polls_per_second": round(len(polls.waits) / wall, 1),
        "bytes_per_second": round(polls.bytes / wall),
        "statuses": {str(status): count for status, count in sorted(polls.statuses.items())},
        "p50_ms": round(statistics.median(polls.waits), 1),
        "p95_ms": round(p95(polls.waits), 1),
        "reached": share < CORE_SHARE and not bad,
        "worst": round(share, 4),
    }


def _viewers(count: int) -> list[str]:
    """Return the sessions of so many researchers, who see the run because it is shared."""
    from webapp.accounts.models import Role, User

    names = [f"viewer {number}" for number in range(count)]
    known = set(User.objects.filter(username__in=names).values_list("username", flat=True))
    User.objects.bulk_create(
        User(username=name, password="!", role=Role.RESEARCHER)  # noqa: S106 - nobody signs in with it
        for name in names
        if name not in known
    )
    return [session_of(user=user) for user in User.objects.filter(username__in=names)]


@contextlib.contextmanager
def _reporting(run: int) -> Iterator[None]:
    """Let the fitting of the run get on every second, as a worker reports it."""
    stop = threading.Event()
    thread = threading.Thread(target=_report, args=(run, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _report(run: int, stop: threading.Event) -> None:
    from django.db import connection
    from django.db.models import F

    from webapp.runs.models import LogLine, MetricPoint, RunStage, Shard

    stage = RunStage.objects.get(run=run, key="checkpoint_selection").stage_id
    number = MetricPoint.objects.filter(stage=stage).count()
    while not stop.wait(1.0):
        number += 1
        Shard.objects.filter(stage=stage).update(
            progress_done=F("progress_done") + 10, tokens_per_second=600 + number % 50
        )
        MetricPoint.objects.create(stage_id=stage, step=number, values={"proxy_win_rate": 0.5 + number % 10 / 100})
        LogLine.objects.create(stage_id=stage, message=f"prompt {10 * number} of 100,000")
    connection.close()


async def _watch(served: Served, run: int, sessions: Sequence[str], seconds: float) -> tuple[Polls, float, float]:
    """Let everybody watch; return what they got in `seconds`, after a while that does not count."""
    polls = Polls()
    watched = [f"/runs/{run}/live/?was=live", f"/runs/{run}/curves/"]
    tasks = [
        asyncio.create_task(_poll(served.port, path, session, polls, place / len(sessions)))
        for place, session in enumerate(sessions)
        for path in watched
    ]
    await asyncio.sleep(_WARM_SECONDS)
    polls.statuses.clear()
    polls.bytes, polls.waits[:] = 0, []
    cpu, started_at = served.cpu_seconds(), time.monotonic()
    await asyncio.sleep(seconds)
    cpu, wall = served.cpu_seconds() - cpu, time.monotonic() - started_at
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            raise error
    return polls, cpu, wall


async def _poll(port: int, path: str, session: str, polls: Polls, phase: float) -> None:
    """Ask for a part of the page every two seconds over one connection, as its script does."""
    await asyncio.sleep(phase * _POLL_SECONDS)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: sessionid={session}\r\nAccept-Encoding: gzip\r\n"
    etag, due = "", time.monotonic()
    while True:
        asked_at = time.perf_counter()
        writer.write((head + (f"If-None-Match: {etag}\r\n" if etag else "") + "\r\n").encode())
        status, headers = await _head(reader)
        length = int(headers.get("content-length", "0")) if status != 304 else 0  # noqa: PLR2004 - not modified
        await reader.readexactly(length)
        polls.statuses[status] += 1
        polls.bytes += length
        polls.waits.append((time.perf_counter() - asked_at) * 1000)
        etag = headers.get("etag", etag)
        due += _POLL_SECONDS
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return int(first.split()[1]), headers


if __name__ == "__main__":
    main()
