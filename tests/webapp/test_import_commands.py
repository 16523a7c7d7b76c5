import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from rso_core.errors import UserError
from rso_core.stages import execute
from webapp.accounts.models import User
from webapp.runs import command_line, jobs
from webapp.runs.artifacts import store
from webapp.runs.failures import Failed
from webapp.runs.models import Dataset, RegisteredModel, Stage, Status

pytestmark = pytest.mark.django_db(transaction=True)
GOOD = {"prompt": "good", "chosen": "b", "rejected": "c"}


def rows_file(folder: Path, *records: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run(*arguments: Any) -> str:
    out = io.StringIO()
    call_command(*map(str, arguments), stdout=out)
    return out.getvalue()


def work() -> bool:
    """Do one piece of work as a worker would; return whether there was one."""
    stage = Stage.objects.filter(status=Status.READY).first()
    claimed = jobs.claim(stage_id=stage.pk, worker="test") if stage else None
    if claimed is None:
        return False
    try:
        result = execute(claimed.spec, store(), lambda _: None)
    except UserError as error:
        jobs.fail_shard(claimed, Failed("user", str(error)))
    else:
        jobs.finish_shard(claimed, digest=result.digest, summary=result.summary)
    return True


@contextmanager
def worker() -> Iterator[None]:
    """A worker that has been seen and does one piece of work in a thread of its own."""
    jobs.note_worker(name="test", queue="cpu", slots=1, device="CPU")

    def serve() -> None:
        deadline = time.monotonic() + 60
        while not work() and time.monotonic() < deadline:
            time.sleep(0.05)
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "POLL_SECONDS", 0.02)


def test_a_file_is_imported_and_the_counts_are_printed(admin: User, tmp_path: Path) -> None:
    path = rows_file(tmp_path, GOOD, GOOD, {**GOOD, "prompt": "x"})

    with worker():
        printed = run("import_dataset", path, "--name", "pairs", "--kind", "preference", "--task", "summarization")

    dataset = Dataset.objects.get(name="pairs")
    assert "3 rows in = 2 kept + 1 rejected (layout: preference)" in printed
    assert "1 an equal row came before" in printed
    assert (dataset.owner, dataset.task, dataset.source, dataset.rows_kept) == (admin, "summarization", "rows.jsonl", 2)


def test_columns_are_mapped(admin: User, tmp_path: Path) -> None:
    path = rows_file(tmp_path, {"q": "a", "a": "b", "thread": "t", "votes": 3})
    maps = [item for pair in ("prompt=q", "target=a", "root=thread", "meta=votes") for item in ("--map", pair)]

    with worker():
        run("import_dataset", path, "--name", "targets", "--kind", "sft", *maps)

    assert Dataset.objects.get(name="targets").rows_kept == 1


def test_without_a_worker_the_command_says_so_and_leaves_the_import_waiting(admin: User, tmp_path: Path) -> None:
    path = rows_file(tmp_path, GOOD)

    printed = run("import_dataset", path, "--name", "pairs")

    assert "no worker for the queue cpu is running" in printed
    assert Dataset.objects.get(name="pairs").digest == ""
    assert work()
    assert Dataset.objects.get(name="pairs").rows_kept == 1


def test_no_wait_returns_at_once(admin: User, tmp_path: Path) -> None:
    assert run("import_dataset", rows_file(tmp_path, GOOD), "--name", "p", "--no-wait") == "p is registered\n"


def test_a_failed_import_ends_the_command_with_its_reason(admin: User, tmp_path: Path) -> None:
    with worker(), pytest.raises(CommandError, match=r"pairs was not imported: .*no known layout"):
        run("import_dataset", rows_file(tmp_path, {"x": 1}), "--name", "pairs")


def test_a_model_folder_is_imported_and_described(admin: User, tmp_path: Path) -> None:
    from tests.rso_core.toys import toy_model

    folder = toy_model(tmp_path / "toy", "causal")

    with worker():
        printed = run("import_model", folder, "--name", "toy", "--licence", "Apache-2.0")

    model = RegisteredModel.objects.get(name="toy")
    assert (model.family, model.licence, bool(model.digest)) == ("causal", "Apache-2.0", True)
    assert "causal, " in printed
    assert "without a chat template" in printed


WRONG: list[tuple[Callable[[Path], list[Any]], str]] = [
    (lambda _: ["import_dataset", "--name", "a"], "name either a file or --hub"),
    (lambda folder: ["import_dataset", folder / "none.csv", "--name", "a"], "there is no file at"),
    (lambda folder: ["import_dataset", rows_file(folder, GOOD), "--name", "a", "--map", "q"], "written OURS=THEIRS"),
    (
        lambda folder: ["import_dataset", rows_file(folder, GOOD), "--name", "a", "--map", "x=y"],
        "must be one of prompt",
    ),
    (lambda folder: ["import_dataset", rows_file(folder, GOOD), "--name", "a", "--owner", "who"], "is called 'who'"),
    (lambda _: ["import_model", "--name", "a"], "name either a folder or GGUF file"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_explained_and_nothing_is_registered(
    arguments: Callable[[Path], list[Any]], message: str, admin: User, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match=message):
        run(*arguments(tmp_path))
    assert not Dataset.objects.exists()


def test_a_taken_name_is_refused(admin: User, tmp_path: Path) -> None:
    path = rows_file(tmp_path, GOOD)
    run("import_dataset", path, "--name", "pairs", "--no-wait")

    with pytest.raises(CommandError, match="a dataset is called 'pairs' already"):
        run("import_dataset", path, "--name", "pairs", "--no-wait")
