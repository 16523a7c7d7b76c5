import json
import stat
from pathlib import Path

import pytest
from django.db import transaction
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from tests.webapp.graphs import finish_stage, researcher, run_of, stage_of
from webapp.runs import queue

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def own_folders(settings: Settings, tmp_path: Path) -> None:
    settings.VAR_DIR, settings.ARTIFACT_URL = tmp_path, str(tmp_path / "artifacts")
    settings.CELERY_BROKER_URL = "filesystem://"


def messages(tmp_path: Path) -> list[tuple[str, str]]:
    """Return (task, arguments) of every message in the broker's folder."""
    found = []
    for path in sorted((tmp_path / "broker" / "messages").glob("*.msg")):
        headers = json.loads(path.read_bytes())["headers"]
        found.append((headers["task"], headers["argsrepr"]))
    return found


def test_a_stage_that_becomes_ready_is_rung_for_after_the_commit(
    tmp_path: Path, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        run = run_of({"sft": ((), 1), "sampling": (("sft",), 3)}, researcher())
    assert messages(tmp_path) == []
    for callback in callbacks:
        callback()
    assert messages(tmp_path) == [("execute_stage", f"[{stage_of(run, 'sft').pk}]")]
    with django_capture_on_commit_callbacks(execute=True):
        finish_stage(run, "sft")
    assert messages(tmp_path)[1:] == [("execute_stage", f"[{stage_of(run, 'sampling').pk}]")]


@pytest.mark.django_db(transaction=True)
def test_nothing_is_rung_for_when_the_transaction_fails(tmp_path: Path) -> None:
    user = researcher()

    def roll_back() -> None:
        with transaction.atomic():
            run_of({"sft": ((), 1)}, user)
            message = "changed my mind"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError):
        roll_back()
    assert messages(tmp_path) == []


def test_a_sharded_stage_is_rung_for_as_often_as_there_are_workers(
    tmp_path: Path, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    from webapp.runs.jobs import note_worker

    note_worker(name="one", queue="gpu", slots=1, device="CPU")
    note_worker(name="both", queue="cpu,gpu", slots=2, device="CPU")
    note_worker(name="other", queue="cpu", slots=8, device="CPU")
    with django_capture_on_commit_callbacks(execute=True):
        run_of({"sampling": ((), 50), "sft": ((), 1)}, researcher())
    assert len(messages(tmp_path)) == 3 + 1


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//", "nonsense://"])
def test_a_broker_that_is_away_stops_nobody_from_launching(
    url: str, settings: Settings, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    settings.CELERY_BROKER_URL = url
    with django_capture_on_commit_callbacks(execute=True):
        run = run_of({"sft": ((), 1)}, researcher())
    assert stage_of(run, "sft").status == "ready"


def test_the_folder_of_messages_is_private(tmp_path: Path) -> None:
    queue.broker_settings()
    assert stat.S_IMODE((tmp_path / "broker" / "messages").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "broker").stat().st_mode) == 0o700
