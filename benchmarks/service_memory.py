"""Measure the most memory that processes without a model hold over more and more pairs: import, supervisor, web.

    python -m benchmarks.service_memory [--pairs 1000 10000 100000]

Pairs as long as those of HH. For each size a process of its own imports them; another one finishes the stage that made
them, as a worker's supervisor does; and the web process of a product of its own shows the run's pairs and sends all of
them as JSON lines and as CSV. Of the last two, pages of mapped files, which the system takes back when it needs them, do not
count; the import is measured with all that it holds, as `import_rows` does.
Bounded means: the largest size takes at most 128 MB more than the smallest.

Needs PostgreSQL where DATABASE_URL says, else starts its own. Writes `service_memory.json`; ends with one line of JSON.
Exits with 1 when a process is not bounded.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import import_rows
from benchmarks.every_page import session_of
from benchmarks.harness import RESULTS, ROOT, provenance, save
from benchmarks.rating_product import Served, seeded_product
from benchmarks.seed_database import pairs_artifact
from benchmarks.worker import status_bytes

BOUND = 128 << 20


def main() -> None:
    """Measure, write `service_memory.json`, and say whether the memory is bounded."""
    options = _options()
    if options.finish:
        _finish(*options.finish)
    elif options.child:
        print(json.dumps(served(options.child)))
    else:
        result = measure(options)
        save(result, options.results)
        print(json.dumps({name: result[name] for name in ("name", "rises", "reached")}))
        sys.exit(not result["reached"])


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pairs", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    made.add_argument("--child", type=int, metavar="PAIRS", help=argparse.SUPPRESS)
    made.add_argument("--finish", nargs=2, metavar=("STAGE", "DIGEST"), help=argparse.SUPPRESS)
    made.set_defaults(threads=os.cpu_count(), dtype="no model")
    return made.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the result file holds."""
    sizes = {str(size): _peaks(size) for size in sorted(options.pairs)}
    rises = rises_of(sizes)
    return {
        "name": "service_memory",
        **provenance(options),
        "target": {"rise_bytes": BOUND},
        "sizes": sizes,
        "rises": rises,
        "reached": max(rises.values()) <= BOUND,
    }


def rises_of(sizes: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return by how many bytes the peak of each process at the largest size exceeds that at the smallest."""
    small, large = (sizes[str(size)] for size in (min(map(int, sizes)), max(map(int, sizes))))
    return {process: large[process] - small[process] for process in small}


def _peaks(size: int) -> dict[str, int]:
    imported = import_rows.measure(size, "jsonl")["peak_bytes"]
    found = {"import": imported, **_process("--child", str(size))}
    print(f"{size} pairs: {found}", file=sys.stderr)
    return found


def _process(*arguments: str) -> Any:
    """Return the JSON that this script prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.service_memory", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def served(size: int) -> dict[str, int]:
    """Return the peaks of the supervisor that stores so many pairs and of the web process that shows and sends them."""
    found: dict[str, int] = {}
    made: dict[str, Any] = {}

    def fill() -> None:
        made.update(_run_before_its_pairs(size))
        found["supervisor"] = _process("--finish", str(made["stage"]), made["digest"])

    with seeded_product(fill) as product, own_memory(product.web_process()) as peak:
        for path in ("", "?q=bread", ".jsonl", ".csv"):
            _read(product, f"/runs/{made['run']}/pairs{path if path.startswith('.') else '/' + path}", made["session"])
    return found | {"web": peak[0]}


@contextmanager
def own_memory(process: int) -> Iterator[list[int]]:
    """Look at a process a hundred times a second; the list holds the most bytes that were its own, mapped files left out.

    Raises SystemExit where the system does not tell (only Linux does): 0 would count as bounded.
    """
    peak, stop = [0], threading.Event()

    def look() -> None:
        while True:
            peak[0] = max(peak[0], status_bytes("RssAnon", process))
            if stop.wait(0.01):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
    if not peak[0]:
        sys.exit(f"/proc/{process}/status tells no RssAnon; the memory of a process is measured on Linux only")


def _run_before_its_pairs(size: int) -> dict[str, Any]:
    """Make a run whose next stage is that of its pairs, and the artifact which that stage makes."""
    from tests.webapp import made_runs
    from webapp.accounts.models import Role, User
    from webapp.runs.models import RunStage

    owner = User.objects.create_user("bench", role=Role.ADMIN)
    made_runs.imported(owner)
    run = made_runs.launched(owner, made_runs.config_of(pair_source="direct"))
    made_runs.finish_run(run, until="pairs")
    stage = RunStage.objects.get(run=run, key="pairs").stage_id
    return {"run": run.pk, "stage": stage, "digest": pairs_artifact(_pairs(size)), "session": session_of(user=owner)}


def _pairs(size: int) -> Iterator[dict[str, Any]]:
    for index, row in enumerate(import_rows.transcripts(size)):
        prompt, _, chosen = row["chosen"].rpartition("\n\nAssistant: ")
        rejected = row["rejected"].rpartition("\n\nAssistant: ")[2]
        yield {
            "index": index, "prompt_id": f"{index:016x}", "prompt": prompt, "messages": json.dumps([{"role": "user", "content": prompt}]),
            "chosen": chosen, "rejected": rejected, "row_id": index + 1,
        }  # fmt: skip


def _finish(stage: str, digest: str) -> None:
    """Finish the stage with the artifact and print the peak of this process."""
    import django

    django.setup()
    from webapp.runs import jobs
    from webapp.runs.models import Pair

    claim = jobs.claim(stage_id=int(stage), worker="gpu@here")
    if claim is None:
        sys.exit(f"stage {stage} is not ready to be claimed")
    with own_memory(os.getpid()) as peak:
        jobs.finish_shard(claim, digest=digest, summary={"pairs": 0, "excluded_rows": 0})
    if not Pair.objects.filter(stage=int(stage)).exists():
        sys.exit(f"stage {stage} has no pairs after it was finished")
    print(json.dumps(peak[0]))


def _read(product: Served, path: str, session: str) -> None:
    """Read an answer to its end. Raises SystemExit when it is no page or file."""
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=600)
    connection.request("GET", path, headers={"Cookie": f"sessionid={session}"})
    answer = connection.getresponse()
    while answer.read(1 << 20):
        pass
    connection.close()
    if answer.status != http.client.OK:
        sys.exit(f"{path} answered {answer.status}, wanted 200")


if __name__ == "__main__":
    main()
