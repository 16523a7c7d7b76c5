"""Uploaded files that were never used are removed after a day; nothing that something refers to ever is."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_django import Settings

from rso_core.artifacts import MANIFEST
from tests.webapp.human_eval.made_campaigns import made_campaign
from tests.webapp.work import imported, json_lines, keep, pairs
from webapp.accounts.models import User
from webapp.human_eval.abandoned_uploads import KEEP_SECONDS, forget_abandoned_uploads
from webapp.human_eval.models import System
from webapp.runs.artifacts import store
from webapp.runs.models import Stage

pytestmark = pytest.mark.django_db


def age(path: Path, seconds: float = KEEP_SECONDS + 60) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def old(content: bytes) -> str:
    """Store an upload a day ago."""
    digest = keep(content)
    age(store().path(digest) / MANIFEST)
    return digest


def test_an_old_upload_that_nothing_refers_to_is_removed() -> None:
    digest = old(b"left behind")
    recent = keep(b"just arrived")
    assert forget_abandoned_uploads() == 1
    assert (store().exists(digest), store().exists(recent)) == (False, True)
    assert list((store().root / "staging").iterdir()) == []
    assert forget_abandoned_uploads() == 0


def of_a_dataset(owner: User, digest: str) -> None:
    Stage.objects.create(fingerprint="1" * 64, kind="import_dataset", queue="cpu", input_digests={"upload": digest})


def of_a_campaign(owner: User, digest: str) -> None:
    System.objects.filter(campaign=made_campaign(owner, items=1), index=0).update(upload_digest=digest)


def of_a_configuration(owner: User, digest: str) -> None:
    Stage.objects.create(fingerprint="1" * 64, kind="responses", queue="cpu", config={"prompts": {"digest": digest}})


def as_an_output(owner: User, digest: str) -> None:
    Stage.objects.create(fingerprint="1" * 64, kind="import_dataset", queue="cpu", status="done", digest=digest)


@pytest.mark.parametrize("refer", [of_a_dataset, of_a_campaign, of_a_configuration, as_an_output])
def test_what_something_refers_to_stays(researcher: User, refer: Callable[[User, str], None]) -> None:
    digest = old(b"still needed")
    refer(researcher, digest)
    assert forget_abandoned_uploads() == 0
    assert store().exists(digest)


def test_artifacts_of_stages_are_none_of_its_business(researcher: User) -> None:
    dataset = imported(researcher, "posts", json_lines(pairs(3)))
    for path in store().root.glob(f"objects/*/*/{MANIFEST}"):
        age(path)
    forget_abandoned_uploads()
    assert store().exists(dataset.digest)


def test_the_same_file_sent_again_is_new_again() -> None:
    digest = old(b"sent twice")
    assert keep(b"sent twice") == digest
    assert forget_abandoned_uploads() == 0
    assert store().exists(digest)


def test_a_file_that_is_sent_again_while_it_is_removed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = old(b"sent twice")
    rename = Path.rename

    def touched_first(path: Path, target: Path) -> Path:
        if target.name.startswith("forgotten-"):
            os.utime(path / MANIFEST)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", touched_first)
    assert forget_abandoned_uploads() == 0
    assert store().exists(digest)


def test_what_a_killed_web_process_had_received_goes_too(settings: Settings) -> None:
    folder = Path(str(settings.FILE_UPLOAD_TEMP_DIR))
    for name in ("half.upload.jsonl", "arriving.upload.jsonl", "something else"):
        (folder / name).write_text("x", encoding="utf-8")
    age(folder / "half.upload.jsonl")
    age(folder / "something else")
    assert forget_abandoned_uploads() == 1
    assert sorted(path.name for path in folder.iterdir()) == ["arriving.upload.jsonl", "something else"]
