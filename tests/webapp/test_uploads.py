from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile
from django.test import Client
from pytest_django import Settings

from tests.webapp.work import json_lines, pairs
from webapp.accounts.models import Role, User
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset
from webapp.runs.uploads import keep_upload

pytestmark = pytest.mark.django_db

FORM = {"name": "posts", "kind": "preference", "task": "dialogue", "origin": "upload", "layout": "auto"}


def kept_files(digest: str) -> dict[str, bytes]:
    folder = store().path(digest)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("rows.jsonl", "rows.jsonl"),
        ("../../etc/passwd", "passwd"),
        (".hidden.csv", "hidden.csv"),
        ("manifest.json", "upload"),
        ("a b\u202ec.jsonl", "a_b_c.jsonl"),
        ("x" * 300 + ".parquet", "x" * 92 + ".parquet"),
    ],
)
def test_a_file_is_kept_under_a_plain_name_with_its_ending(name: str, kept: str) -> None:
    assert kept_files(keep_upload(SimpleUploadedFile(name, b"content"))) == {kept: b"content"}


def test_a_file_on_disk_is_moved_not_copied() -> None:
    upload = TemporaryUploadedFile("rows.jsonl", "text/plain", 7, None)
    upload.write(b"content")
    upload.flush()
    path = Path(upload.temporary_file_path())
    assert kept_files(keep_upload(upload)) == {"rows.jsonl": b"content"}
    assert not path.exists()
    upload.close()


def test_the_same_file_is_kept_once() -> None:
    assert keep_upload(SimpleUploadedFile("a.csv", b"x")) == keep_upload(SimpleUploadedFile("a.csv", b"x"))


def test_a_file_larger_than_the_limit_is_refused_and_the_rest_of_the_form_stays(
    client: Client, researcher: User, settings: Settings
) -> None:
    settings.MAX_UPLOAD_BYTES = 1000
    client.force_login(researcher)
    large = SimpleUploadedFile("posts.jsonl", json_lines(pairs(200)))
    response = client.post("/datasets/new/", FORM | {"file": large, "licence": "CC-BY-4.0"})
    assert "larger than 1000" in response.context["form"].errors["file"][0]
    assert "CC-BY-4.0" in response.content.decode()
    assert not Dataset.objects.exists()
    assert not (store().root / "objects").exists()


def test_the_limit_is_of_a_request_not_of_each_of_its_files(
    client: Client, researcher: User, settings: Settings
) -> None:
    settings.MAX_UPLOAD_BYTES = 1000
    client.force_login(researcher)
    files = {f"file{number}": SimpleUploadedFile("a.jsonl", b"x" * 400) for number in range(3)}
    response = client.post("/datasets/new/", FORM | files)
    assert sorted(response.wsgi_request.FILES) == ["file0", "file1"]


@pytest.mark.parametrize("role", [None, Role.RATER])
def test_no_file_is_kept_of_somebody_who_may_not_upload(client: Client, role: Role | None) -> None:
    if role:
        client.force_login(User.objects.create_user("rita", role=role))
    response = client.post("/sign-in/", {"username": "rita", "file": SimpleUploadedFile("a.jsonl", b"x")})
    assert not response.wsgi_request.FILES
    assert response.wsgi_request.POST["username"] == "rita"


def test_a_file_of_several_chunks_arrives_whole(client: Client, researcher: User, settings: Settings) -> None:
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = 1000
    client.force_login(researcher)
    content = json_lines(pairs(3000))
    client.post("/datasets/new/", FORM | {"file": SimpleUploadedFile("posts.jsonl", content)})
    stage = Dataset.objects.get().stage
    assert stage is not None
    assert kept_files(stage.input_digests["upload"]) == {"posts.jsonl": content}
