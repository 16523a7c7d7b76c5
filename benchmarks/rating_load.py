"""Measure rating over HTTP: the product as `make up` starts it, raters at browsers without a script beside it.

    python benchmarks/rating_load.py [--tasks 300] [--replicas 3] [--raters 40] [--rate 42] [--browser] [--save FILE]

Starts the product over an empty folder (its own PostgreSQL, durable; with DATABASE_URL a database of its own on that
server, dropped afterwards), makes a campaign and an invitation for every rater, and lets them claim and submit until
every slot is answered: each cycle is the GET of the task's page and the POST of its form, with session and CSRF token,
over connections that are kept alive. The load generator shares the processors with what it measures.

Two runs, a campaign each. `paced`: a cycle begins every 1/rate seconds, whoever's turn it is; the wait for a GET counts
from the moment at which its cycle was due, so a stall shows in all that it delays. `flat_out`: nobody pauses, which
gives the highest throughput (its waits only say how many raters queue). With --browser, Chromium opens the page with
long texts: bytes of the HTML, and milliseconds until it can be used. Exits with 1 when a figure misses its target.
Ends with one line of JSON.
"""

import argparse
import json
import os
import platform
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # a script finds its own folder, not the project's
    sys.path.insert(0, str(ROOT))

from benchmarks.rating_campaign import invitations, make_campaign  # noqa: E402 - found by the line above
from benchmarks.rating_client import RaterClient, RefusedError, task_of  # noqa: E402
from benchmarks.rating_page import in_browser  # noqa: E402
from benchmarks.rating_product import Served, product  # noqa: E402

CYCLES_A_SECOND = 40.0
P95_MS = 250.0
HTML_BYTES = 60_000
INTERACTIVE_MS = 1000.0


# Raters ----------------------------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What raters saw."""

    gets: list[float] = field(default_factory=list)  # seconds
    posts: list[float] = field(default_factory=list)
    html: list[int] = field(default_factory=list)  # bytes of a task's page
    errors: Counter[str] = field(default_factory=Counter)
    stored: int = 0  # forms that were answered as stored


@dataclass
class Rater:
    """Somebody who claims and submits; everything is said at random, nothing contradicts itself."""

    client: RaterClient
    path: str
    figures: Figures
    rng: random.Random

    def cycle(self, due: float | None) -> bool:
        """Claim a task and answer it; False when there is none."""
        waited = 0.0 if due is None else time.perf_counter() - due
        page = self.client.get(self.path)
        task = task_of(page.text)
        if page.status != 200:  # noqa: PLR2004 - found
            self.figures.errors[f"GET {page.status} {page.location}"] += 1
        if task is None:
            return False
        scores = [self.rng.randint(1, 5) for _ in range(3)]
        best = scores.index(max(scores)) + 1 if len(set(scores)) > 1 else 0
        said = {f"q{place}": str(score) for place, score in enumerate(scores, start=1)}
        reply = self.client.post(self.path, task.hidden | said | {"best": str(best), "reason": ""})
        self.figures.gets.append(waited + page.seconds)
        self.figures.posts.append(reply.seconds)
        self.figures.html.append(len(page.text.encode()))
        if reply.status == 302 and reply.location == self.path:  # noqa: PLR2004 - stored, go on
            self.figures.stored += 1
        else:
            self.figures.errors[f"POST {reply.status} {reply.location}"] += 1
        return True


class Clock:
    """Says when the next cycle is due."""

    def __init__(self, rate: float) -> None:
        self._rate, self._number, self._lock = rate, 0, threading.Lock()
        self.started = time.perf_counter()

    def due(self) -> float:
        """Take the next moment, and wait for it."""
        with self._lock:
            moment = self.started + self._number / self._rate
            self._number += 1
        time.sleep(max(0.0, moment - time.perf_counter()))
        return moment


def drive(raters: list[Rater], rate: float | None) -> float:
    """Let raters work until there is nothing left for them; return the seconds it took."""
    clock = Clock(rate) if rate else None

    def work(rater: Rater) -> None:
        try:
            while rater.cycle(clock.due() if clock else None):
                pass
        except Exception as error:  # noqa: BLE001 - counted and shown, whatever it is
            rater.figures.errors[repr(error)] += 1

    threads = [threading.Thread(target=work, args=(rater,)) for rater in raters]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def joined(served: Served, campaign: Any, owner: Any, count: int) -> list[Rater]:
    """Return raters who have accepted their invitations and seen the page once, as in a running campaign."""
    raters = []
    for number, token in enumerate(invitations(campaign, owner, count)):
        client = RaterClient(served.port)
        path = client.accept(token)
        raters.append(Rater(client, path, Figures(), random.Random(number)))  # noqa: S311
        if client.get(path).status != 200:  # noqa: PLR2004 - found
            message = f"{path} did not answer a rater who had just joined"
            raise RefusedError(message)
    return raters


def run(served: Served, owner: Any, name: str, *, options: argparse.Namespace, rate: float | None) -> dict[str, Any]:
    """Return the figures of a campaign that raters finish."""
    campaign = make_campaign(owner, name, tasks=options.tasks, replicas=options.replicas)
    raters = joined(served, campaign, owner, options.raters)
    before = served.cpu_seconds()
    seconds = drive(raters, rate)
    used = served.cpu_seconds() - before
    for rater in raters:
        rater.client.close()
    gets = [wait for rater in raters for wait in rater.figures.gets]
    posts = [wait for rater in raters for wait in rater.figures.posts]
    return {
        "raters": len(raters),
        "wanted": options.tasks * options.replicas,
        "cycles": len(posts),
        "seconds": round(seconds, 2),
        "cycles_per_second": round(len(posts) / seconds, 1),
        "get_ms": quantiles(gets),
        "post_ms": quantiles(posts),
        "web_cpu_ms_per_cycle": round(1000 * used / max(1, len(posts)), 1),
        "html_bytes_median": sorted(size for rater in raters for size in rater.figures.html)[len(gets) // 2],
        "errors": dict(sum((rater.figures.errors for rater in raters), Counter())),
        "acknowledged": sum(rater.figures.stored for rater in raters),
        **stored(campaign),
    }


def quantiles(waits: list[float]) -> dict[str, float]:
    """Return the middle and the tail of waits, in milliseconds."""
    ranked = sorted(waits)
    places = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {
        name: round(1000 * ranked[min(len(ranked) - 1, int(place * len(ranked)))], 1) for name, place in places.items()
    }


def stored(campaign: Any) -> dict[str, Any]:
    """Return what is in the database, and what must not be."""
    from django.db.models import Count, F

    from webapp.human_eval.invariants import broken_rules
    from webapp.human_eval.models import Answer, Item, Slot

    answers = Answer.objects.filter(campaign=campaign)
    twice = answers.values("item", "rater").annotate(times=Count("pk")).filter(times__gt=1)
    counted = Item.objects.filter(campaign=campaign, answers__standing="counted").annotate(times=Count("answers"))
    return {
        "answers_stored": answers.count(),
        "answers_counted": answers.filter(standing="counted").count(),
        "slots_left": Slot.objects.filter(campaign=campaign).exclude(status="submitted").count(),
        "over_assigned": counted.filter(times__gt=F("campaign__replicas")).count(),
        "same_rater_duplicates": twice.count(),
        "broken_rules": list(broken_rules(campaign)),
    }


# Report ----------------------------------------------------------------------------------------------------------------


def missed(found: dict[str, Any]) -> list[str]:
    """Return the targets that were missed."""
    paced, page = found["paced"], found.get("browser")
    tests = {
        f"at least {CYCLES_A_SECOND:g} cycles/s": paced["cycles_per_second"] >= CYCLES_A_SECOND,
        f"p95 of GET under {P95_MS:g} ms": paced["get_ms"]["p95"] < P95_MS,
        f"p95 of POST under {P95_MS:g} ms": paced["post_ms"]["p95"] < P95_MS,
    }
    for name in ("paced", "flat_out"):
        one = found[name]
        tests[f"{name}: every slot answered once"] = one["answers_counted"] == one["acknowledged"] == one["wanted"]
        clean = not (one["errors"] or one["over_assigned"] or one["same_rater_duplicates"] or one["broken_rules"])
        tests[f"{name}: no errors, nothing twice or too often"] = clean
    if page:
        tests[f"HTML under {HTML_BYTES:,} bytes"] = page["html_bytes"] < HTML_BYTES
        tests[f"interactive within {INTERACTIVE_MS:g} ms"] = page["cold_key_ms"] < INTERACTIVE_MS
    return [name for name, passed in tests.items() if not passed]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    with product() as served:
        from webapp.accounts.models import User

        owner = User.objects.create_user("bench", password=None, role="researcher")
        warm = argparse.Namespace(tasks=60, replicas=3, raters=options.raters)
        run(served, owner, "warm", options=warm, rate=None)  # templates compiled, connections open: a running product
        found = {
            "machine": {"cores": os.cpu_count(), "python": platform.python_version(), **served.versions()},
            "paced": run(served, owner, "paced", options=options, rate=options.rate),
            "flat_out": run(served, owner, "flat out", options=options, rate=None),
        }
        if options.browser:
            found["browser"] = in_browser(served, owner)
    return found | {"missed": missed(found)}


def parsed() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"tasks": 300, "replicas": 3, "raters": 40}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=42.0, help="cycles that begin each second in the paced run")
    parser.add_argument("--browser", action="store_true", help="open the page in Chromium as well")
    parser.add_argument("--save", type=Path, help="append the line of JSON to this file")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and keep the figures if asked to."""
    options = parsed()
    found = measure(options)
    for name in ("paced", "flat_out", "browser"):
        for what, value in found.get(name, {}).items():
            print(f"{name:9} {what:24} {value}")
    line = json.dumps(found)
    if options.save:
        with options.save.open("a", encoding="utf-8") as kept:
            kept.write(line + "\n")
    print(line)
    sys.exit(bool(found["missed"]))


if __name__ == "__main__":
    main()
