"""Measure the results page of a large campaign: cold (nobody has looked since the last answer) and warm.

    python benchmarks/results_page.py [--items 2000] [--replicas 3] [--raters 40] [--viewers 8] [--save FILE]

Makes the campaign in a test database of PostgreSQL (DATABASE_URL, or an embedded server of its own) and asks for its
pages through Django as a browser would: middleware, session, query, template. Exits with 1 when the page takes longer
than a second, cold or warm. Ends with one line of JSON.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SECONDS = 1.0
_WARM = 20
_BEST = 2  # the system that is a little better
_WORDS = ("the", "author", "asks", "whether", "a", "heater", "can", "be", "mended", "before", "winter", "or", "not")


@contextmanager
def database() -> Iterator[None]:
    """Set Django up over a fresh database, and drop it afterwards."""
    with tempfile.TemporaryDirectory(prefix="rso-bench-") as folder:
        Path(folder).chmod(0o755)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
        os.environ["RSO_VAR_DIR"] = folder
        server = None
        if not os.environ.get("DATABASE_URL"):
            from workers.embedded_postgres import EmbeddedPostgres

            server = EmbeddedPostgres(Path(folder) / "postgres", durable=True)
            server.start()
            os.environ["DATABASE_URL"] = server.url
        import django

        django.setup()
        from django.db import connection
        from django.test.utils import setup_test_environment, teardown_test_environment

        setup_test_environment()
        name = connection.settings_dict["NAME"]
        connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
        try:
            yield
        finally:
            connection.creation.destroy_test_db(name, verbosity=0)
            teardown_test_environment()
            if server is not None:
                server.stop()


def text(rng: random.Random, words: int) -> str:
    """Return a text of so many words."""
    return " ".join(rng.choices(_WORDS, k=words))


def make_campaign(owner: Any, *, items: int, replicas: int, raters: int) -> Any:
    """Return a closed campaign of three systems in which every replica was answered; one is a little better."""
    from django.utils import timezone

    from webapp.human_eval.models import Answer, Campaign, Item, Participation, Rater, Response, Slot, System

    rng, now = random.Random(0), timezone.now()  # noqa: S311 - no secret
    campaign = Campaign.objects.create(
        owner=owner, name="bench", title="Rate", task="summarization", status="open", replicas=replicas, num_items=items,
        quality_question="How good?", choice_question="Which?", seed=3,
    )  # fmt: skip
    systems = System.objects.bulk_create(
        System(campaign=campaign, index=index, label=f"system {index}", kind="file") for index in range(3)
    )
    made = Item.objects.bulk_create(
        Item(campaign=campaign, index=index, prompt=text(rng, 150), root=f"{index:016x}") for index in range(items)
    )
    Response.objects.bulk_create(
        Response(item=item, index=system.index, system=system, text=text(rng, rng.randint(20, 60)))
        for item in made
        for system in systems
    )
    people = Rater.objects.bulk_create(Rater(origin="invitation") for _ in range(raters))
    Participation.objects.bulk_create(Participation(campaign=campaign, rater=rater) for rater in people)
    slots, answers = [], []
    for item in made:
        for number, rater in enumerate(rng.sample(people, replicas)):
            order = "".join(rng.sample("012", 3))
            slots.append(
                Slot(
                    campaign=campaign, item=item, number=number, status="submitted", rater=rater, token=uuid4(),
                    order=order, lease_expires=now,
                )
            )  # fmt: skip
            choice = rng.choices([None, 0, 1, 2], [1, 3, 3, 4])[0]
            quality = [min(5, max(1, round(rng.gauss(3 + 0.3 * (index == _BEST), 1)))) for index in range(3)]
            answers.append(
                Answer(
                    campaign=campaign, item=item, rater=rater, order=order, choice=choice, same=choice is None,
                    quality_0=quality[0], quality_1=quality[1], quality_2=quality[2], active_ms=rng.randint(4000, 90000),
                    elapsed_ms=100_000, submitted=now, standing="surplus",
                )
            )  # fmt: skip
    for answer, slot in zip(answers, Slot.objects.bulk_create(slots), strict=True):
        answer.slot, answer.standing = slot, "counted"
    Answer.objects.bulk_create(answers)
    return campaign


def timed(ask: Callable[[], Any]) -> float:
    """Return the seconds that something takes."""
    started = time.perf_counter()
    ask()
    return time.perf_counter() - started


def pages(owner: Any, campaign: Any, viewers: int) -> dict[str, Any]:
    """Return the seconds of every page, cold and warm."""
    from django.db import connection
    from django.test import Client

    from webapp.human_eval.models import ResultsSnapshot

    def client() -> Client:
        signed_in = Client()
        signed_in.force_login(owner)
        return signed_in

    def get(path: str, using: Client) -> Any:
        response = using.get(f"/campaigns/{campaign.pk}/{path}")
        if response.status_code != 200:  # noqa: PLR2004 - found
            message = f"{path} answered {response.status_code}"
            raise RuntimeError(message)
        return b"".join(response) if response.streaming else response.content

    browser = client()
    for path in ("results/", "items/", "raters/"):  # templates compiled, connection open: a running product
        get(path, browser)
    colds, processor = [], []
    for _ in range(3):
        ResultsSnapshot.objects.all().delete()
        before = time.process_time()
        colds.append(timed(lambda: get("results/", browser)))
        processor.append(time.process_time() - before)
    found: dict[str, Any] = {
        "cold_seconds": max(colds),
        "cold_processor_seconds": max(processor),  # of the web process: what a free core would need at least
        "warm_seconds": median(timed(lambda: get("results/", browser)) for _ in range(_WARM)),
        "html_bytes": len(get("results/", browser)),
        "items_seconds": median(timed(lambda: get("items/", browser)) for _ in range(5)),
        "raters_seconds": median(timed(lambda: get("raters/", browser)) for _ in range(5)),
        "export_seconds": timed(lambda: get("answers.csv", browser)),
        "compute_seconds": ResultsSnapshot.objects.get().seconds,
    }
    ResultsSnapshot.objects.all().delete()
    seconds: list[float] = []

    def look() -> None:
        mine = client()
        seconds.append(timed(lambda: get("results/", mine)))
        connection.close()

    threads = [threading.Thread(target=look) for _ in range(viewers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found["viewers"], found["slowest_of_viewers_seconds"] = viewers, max(seconds)
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def measure(*, items: int, replicas: int, raters: int, viewers: int) -> dict[str, Any]:
    """Return the figures of a campaign of this size."""
    with database():
        from webapp.accounts.models import User

        owner = User.objects.create_user("bench", password=uuid4().hex)
        campaign = make_campaign(owner, items=items, replicas=replicas, raters=raters)
        return {
            "items": items, "answers": items * replicas, "raters": raters, "cores": os.cpu_count(),
            "load_before": round(os.getloadavg()[0], 1),
            "python": platform.python_version(), **pages(owner, campaign, viewers),
        }  # fmt: skip


def report(found: dict[str, Any], command: str) -> str:
    """Return the figures as the page of Markdown that is kept."""
    lines = "\n".join(f"| {name} | {value} |" for name, value in found.items())
    return (
        f"# The results page of a large campaign\n\nCommand: `{command}`\n\n"
        "Cold: nobody has looked since the last answer, the figures (2,000 bootstrap draws) are computed. Warm: they "
        "are read from the snapshot. Several viewers at once: the first computes, the others wait for it.\n\n"
        f"| what | value |\n| --- | --- |\n{lines}\n"
    )


def main() -> None:
    """Measure, print, and keep the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"items": 2000, "replicas": 3, "raters": 40, "viewers": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    sizes = {name: value for name, value in vars(options).items() if name != "save"}
    found = measure(**sizes)
    command = "python benchmarks/results_page.py " + " ".join(f"--{name} {value}" for name, value in sizes.items())
    if options.save:
        options.save.write_text(report(found, command), encoding="utf-8")
    print(json.dumps(found))
    sys.exit(max(found["cold_seconds"], found["warm_seconds"]) > SECONDS)


if __name__ == "__main__":
    main()
