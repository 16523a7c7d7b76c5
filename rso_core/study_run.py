"""Execute a study in local processes, without Django or Celery, and go on where an earlier start ended.

Several workers share one store: a stage is locked while it is being done, so that it is done once. Each worker begins
with other seeds, and the cells of a seed are done together, so workers seldom wait for each other.
"""

import contextlib
import fcntl
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO

from rso_core.artifacts import ArtifactStore
from rso_core.errors import RsoError, TransientError
from rso_core.local_run import LocalRun
from rso_core.protocol import Progress
from rso_core.studies import Cell, Study, cells
from rso_core.study_results import CellRecord, DoneStage
from rso_core.terminal import Line

_POLL_SECONDS = 0.5


class SilentLine(Line):
    """Progress that nobody watches: what matters is in the ledger."""

    def __init__(self, title: str) -> None:
        self._null = Path(os.devnull).open("w")  # noqa: SIM115 - closed below
        super().__init__(title, self._null)

    def end(self, text: str) -> None:
        """Say nothing and close."""
        super().end(text)
        self._null.close()


def records(study: Study, store: ArtifactStore) -> list[CellRecord]:
    """Return every cell with what its stages have left so far, importing the data that the study names."""
    run = LocalRun(store, make_line=SilentLine)
    return [CellRecord(cell, _stages(run, cell)) for cell in cells(study)]


def _stages(run: LocalRun, cell: Cell) -> dict[str, DoneStage]:
    found: dict[str, DoneStage] = {}
    for stage in run.plan(cell.config).stages:
        done = run.ledger.get(stage.fingerprint)
        made = (done.digest, done.summary, done.seconds) if done else ()
        found[stage.key] = DoneStage(stage.key, stage.kind, stage.fingerprint, *made)
    return found


def run_study(study: Study, store: ArtifactStore, *, workers: int = 1) -> list[CellRecord]:
    """Execute what is missing of a study and return its cells. Raises RsoError; what has finished stays."""
    if workers == 1:
        work(study, store, 0, 1)
    else:
        _work_together(study, store, workers)
    return records(study, store)


def work(study: Study, store: ArtifactStore, number: int, workers: int) -> None:
    """Execute the cells that no other worker has begun, in the order of worker `number` of `workers`."""
    run = LocalRun(store)
    for cell in in_order(cells(study), number, workers):
        with claimed(store, cell) as mine:
            if mine:
                sys.stderr.write(f"{cell.config.name}\n")
                run.run(cell.config)


def in_order(found: Sequence[Cell], number: int, workers: int) -> list[Cell]:
    """Return cells in the order of a worker: odd ones begin at the end, the others at their share of the seeds.

    Two workers that come from both ends meet at one seed only.
    """
    if number % 2:
        found = found[::-1]
    seeds = list(dict.fromkeys(cell.seed for cell in found))
    first = (number // 2) * len(seeds) // max(1, (workers + 1) // 2)
    turned = [*seeds[first:], *seeds[:first]]
    return [cell for seed in turned for cell in found if cell.seed == seed]


@contextlib.contextmanager
def claimed(store: ArtifactStore, cell: Cell) -> Iterator[bool]:
    """Yield whether this process has the cell; another one that comes while it does leaves it alone."""
    folder = store.root / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{cell.seed}-{cell.config.name}")
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _work_together(study: Study, store: ArtifactStore, workers: int) -> None:
    """Run workers in processes of their own and show how many cells are done."""
    context = multiprocessing.get_context("spawn")
    logs = [store.root / f"study-worker-{number}.log" for number in range(workers)]
    arguments = [(study.model_dump_json(), store.url, number, workers, str(logs[number])) for number in range(workers)]
    processes: list[BaseProcess] = [context.Process(target=_worker, args=item, daemon=True) for item in arguments]
    for process in processes:
        process.start()
    try:
        _watch(study, store, processes)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    _refuse_failed(processes, logs)


def _watch(study: Study, store: ArtifactStore, processes: Sequence[BaseProcess]) -> None:
    names = [LocalRun(store).record_path(cell.config) for cell in cells(study)]
    begun = time.time()
    with Line(study.name) as line:
        line.begin(f"{len(processes)} workers")
        while any(process.is_alive() for process in processes):
            line.show(Progress(done=sum(path.exists() for path in names), total=len(names), unit="cells"))
            if any(process.exitcode for process in processes):
                break
            time.sleep(_POLL_SECONDS)
        line.end(f"{sum(path.exists() for path in names)} of {len(names)} cells, {(time.time() - begun) / 60:.1f} min")


def _refuse_failed(processes: Sequence[BaseProcess], logs: Sequence[Path]) -> None:
    for process, log in zip(processes, logs, strict=True):
        if process.exitcode and process.exitcode > 0:
            lines = log.read_text(encoding="utf-8").splitlines()
            message = f"a worker of the study ended with an error: {lines[-1] if lines else ''}; its log is {log}"
            raise TransientError(message)


def _worker(study: str, store: str, number: int, workers: int, log: str) -> None:
    """Do a worker's share; its lines go into a file, an error's sentence last."""
    with Path(log).open("a", encoding="utf-8") as file:
        sys.stderr = file
        _leave_with_parent(file)
        try:
            work(Study.model_validate_json(study), ArtifactStore(store), number, workers)
        except RsoError as error:
            print(error, file=file, flush=True)
            raise SystemExit(1) from error


def _leave_with_parent(file: IO[str]) -> None:
    """End when the parent has ended, whatever ended it: a thread watches it."""
    import threading

    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            file.flush()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
