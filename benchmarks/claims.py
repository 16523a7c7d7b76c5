"""Measure how fast and how rightly tasks are handed out: 40 raters at once want 300 tasks with 3 replicas each.

    make bench-claims [ARGS="--raters 40 --items 300 --replicas 3 --processes 4 --repeat 3"]

Every rater is a thread with a connection of its own and calls `webapp.human_eval.assignment.claim` as the rating page
does, one claim after the other, without a pause; a few processes share the raters, so that one interpreter's lock is
not what is measured. So that the next claim is a new one and not the task in hand, each task is marked as submitted
between two claims, by one UPDATE that is not timed, though it uses the same processors. `claims_per_second` is claims by wall time of
the whole run, marks included; `p99_ms` is of single claims as the web process sees them, waits and Python included.

Uses DATABASE_URL if it is set (a new database on that server, dropped afterwards), else a durable PostgreSQL of its
own. Ends with one JSON line, and with 1 when a claim is missing, wrong or double, or a target is missed.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CLAIMS_PER_SECOND, P99_MS = 1_000, 100
_NAME = f"rso_bench_claims_{os.getpid()}"
_MARK = "UPDATE human_eval_slot SET status = 'submitted' WHERE token = %s"


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Yield the address of a PostgreSQL: that of DATABASE_URL, or a durable one of our own."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    from workers.embedded_postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory(prefix="rso-bench-") as folder:
        Path(folder).chmod(0o755)
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        postgres.start()
        try:
            yield postgres.url
        finally:
            postgres.stop()


@contextlib.contextmanager
def database(url: str) -> Iterator[str]:
    """Make an empty database on a server; yield its address and drop it afterwards."""
    import psycopg2

    head, _, options = url.partition("?")
    own = head.rpartition("/")[0] + f"/{_NAME}" + (f"?{options}" if options else "")
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {_NAME}")
            cursor.execute(f"CREATE DATABASE {_NAME}")
            try:
                yield own
            finally:
                cursor.execute(f"DROP DATABASE {_NAME} WITH (FORCE)")


def start_django(url: str) -> None:
    """Let this process use the database."""
    os.environ["DATABASE_URL"] = url
    os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
    import django

    django.setup()


def made_campaign(options: argparse.Namespace) -> tuple[int, list[int]]:
    """Make a campaign and its raters; return their keys."""
    from webapp.accounts.models import User
    from webapp.human_eval.launching import make_slots
    from webapp.human_eval.models import Campaign, Item, Participation, Rater

    owner, _ = User.objects.get_or_create(username="bench")
    campaign = Campaign.objects.create(
        owner=owner,
        name=f"bench {time.time_ns()}",
        status="open",
        replicas=options.replicas,
        max_items_per_rater=options.maximum,
        check_share=options.check_share,
    )
    Item.objects.bulk_create(Item(campaign=campaign, index=n, prompt=f"post {n}") for n in range(options.items))
    make_slots(campaign)
    raters = Rater.objects.bulk_create(Rater(origin="invitation") for _ in range(options.raters))
    Participation.objects.bulk_create(
        Participation(campaign=campaign, rater=rater, qualification="passed") for rater in raters
    )
    return campaign.pk, [rater.pk for rater in raters]


def rate(url: str, campaign_key: int, rater_keys: list[int], start: Any, results: Any) -> None:
    """Be some of the raters, in a process of our own; report (rater, item, slot, start, end) of every claim."""
    start_django(url)
    from django.db import connection

    from webapp.human_eval.assignment import claim
    from webapp.human_eval.claim_sql import prepare
    from webapp.human_eval.models import Campaign, Rater

    campaign = Campaign.objects.get(pk=campaign_key)
    raters = {rater.pk: rater for rater in Rater.objects.filter(pk__in=rater_keys)}
    connection.close()

    def be(key: int) -> list[tuple[int, int, int, float, float]]:
        claims: list[tuple[int, int, int, float, float]] = []
        with connection.cursor() as cursor:  # connected, and the statement prepared, as a web process's connections are
            for counts, expired in itertools.product((True, False), repeat=2):
                prepare(cursor, counts=counts, expired=expired)
            start.wait()
            while True:
                begun = time.monotonic()
                slot = claim(campaign, raters[key])
                ended = time.monotonic()
                if slot is None:
                    break
                claims.append((key, slot.item_id, slot.pk, begun, ended))
                cursor.execute(_MARK, [slot.token])
        connection.close()
        return claims

    with ThreadPoolExecutor(len(rater_keys)) as pool:
        results.put([claim for found in pool.map(be, rater_keys) for claim in found])


def run(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let all raters claim at once, and count what they got."""
    from django.db import connection, connections

    campaign, raters = made_campaign(options)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    connections.close_all()
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(options.raters + 1), context.Queue()
    shares = [raters[n :: options.processes] for n in range(options.processes)]
    processes = [context.Process(target=rate, args=(url, campaign, share, start, results)) for share in shares if share]
    for process in processes:
        process.start()
    start.wait()
    claims = [claim for _ in processes for claim in results.get()]
    for process in processes:
        process.join()
    return summary(claims, options)


def summary(claims: list[tuple[int, int, int, float, float]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the counts and times of a run."""
    per_item = Counter(item for _, item, _, _, _ in claims)
    per_rater = Counter((rater, item) for rater, item, _, _, _ in claims)
    times = sorted((ended - begun) * 1000 for _, _, _, begun, ended in claims)
    seconds = max(ended for *_, ended in claims) - min(begun for *_, begun, _ in claims)
    return {
        "wanted": options.items * options.replicas,
        "claims": len(claims),
        "over_assigned": sum(max(0, count - options.replicas) for count in per_item.values()),
        "same_rater_duplicates": sum(count - 1 for count in per_rater.values()),
        "claims_per_second": round(len(claims) / seconds),
        "p99_ms": round(statistics.quantiles(times, n=100)[98], 1),
        "p50_ms": round(statistics.median(times), 1),
    }


def is_right(result: dict[str, Any]) -> bool:
    """Return whether every wanted claim was made, and none twice."""
    return result["claims"] == result["wanted"] and result["over_assigned"] == result["same_rater_duplicates"] == 0


def main() -> None:
    """Measure and print; the last line has each figure's median over the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", type=int, default=40)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--maximum", type=int, help="most tasks of a rater, which a claim then counts")
    parser.add_argument("--check-share", type=float, default=0.0)
    parser.add_argument("--no-targets", action="store_true", help="end with 0 however slow it was")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as var, server() as server_url, database(server_url) as url:
        os.environ.setdefault("RSO_VAR_DIR", var)
        start_django(url)
        results = measured(url, options)
    result = {name: statistics.median_low(found[name] for found in results) for name in results[0]}
    print(json.dumps(result))
    fast = result["claims_per_second"] >= CLAIMS_PER_SECOND and result["p99_ms"] < P99_MS
    sys.exit(not (all(map(is_right, results)) and (fast or options.no_targets)))


def measured(url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Make the tables, measure as often as asked, say what was measured on."""
    from django.core.management import call_command
    from django.db import connection, connections

    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"
        )
        version, fsync, synchronous = cursor.fetchone()
    print(
        f"PostgreSQL {version} (fsync {fsync}, synchronous_commit {synchronous}), Python {platform.python_version()}, "
        f"{os.cpu_count()} processors, {options.raters} raters in {options.processes} processes"
    )
    results = []
    for _ in range(options.repeat):
        results.append(run(url, options))
        print(results[-1])
    connections.close_all()
    return results


sys.path.insert(0, str(ROOT))  # also in the processes that this one starts

if __name__ == "__main__":
    main()
