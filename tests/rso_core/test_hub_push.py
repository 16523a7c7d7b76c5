"""Pushing to the hub, spoken to over HTTP at a server that answers as the hub's API does for small files."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rso_core.errors import TransientError, UserError
from rso_core.hub_push import push


class Hub(ThreadingHTTPServer):
    """What was made and committed; `refuses` is the status that every request gets instead."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, str]] = {}
        self.tokens: set[str] = set()
        self.refuses = 0
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Api(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.refuses:
            self._answer({"error": "no"}, self.server.refuses)
        elif self.path == "/api/repos/create":
            self.server.created.append(asked := json.loads(body))
            self._answer({"url": f"{self.server.address}/{asked['organization']}/{asked['name']}"})
        elif "/preupload/" in self.path:
            names = [item["path"] for item in json.loads(body)["files"]]
            self._answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/commit/" in self.path:
            files = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
            name = self.path.split("/commit/")[0].removeprefix("/api/")
            self.server.files[name] = {item["path"]: base64.b64decode(item["content"]).decode() for item in files}
            self._answer({"success": True, "commitOid": "a1", "commitUrl": f"{self.server.address}/{name}/commit/a1"})
        else:
            self._answer({"errors": [], "warnings": []})

    def _answer(self, value: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name that it has there
        """Keep quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("policy", "pairs")}
    for name, folder in made.items():
        (folder / "data").mkdir(parents=True)
        (folder / "README.md").write_text(f"# {name}\n", encoding="utf-8")
        (folder / "data" / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    return made


def test_folders_become_repositories_of_their_kind(hub: Hub, folders: dict[str, Path]) -> None:
    addresses = push(folders, "team/helpful")
    assert [(item["name"], item.get("type", "model")) for item in hub.created] == [
        ("helpful", "model"), ("helpful-pairs", "dataset"),
    ]  # fmt: skip
    assert all(item["visibility"] == "private" for item in hub.created)
    assert hub.files["models/team/helpful"] == {"README.md": "# policy\n", "data/rows.jsonl": "{}\n"}
    assert hub.files["datasets/team/helpful-pairs"]["README.md"] == "# pairs\n"
    assert addresses.keys() == folders.keys()
    assert hub.tokens == {"Bearer hf_of_a_test"}


def test_public_is_said(hub: Hub, folders: dict[str, Path]) -> None:
    push(folders, "team/helpful", public=True)
    assert all(item["visibility"] == "public" for item in hub.created)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (403, UserError, "HF_TOKEN may write"),
        (400, UserError, "refuses team/helpful"),
        (501, TransientError, "the hub failed"),
    ],
)
def test_a_refusal_says_what_to_check(
    hub: Hub, folders: dict[str, Path], status: int, kind: type[Exception], words: str
) -> None:
    hub.refuses = status
    with pytest.raises(kind, match=words):
        push(folders, "team/helpful")


def test_an_unreachable_hub_says_that_nothing_is_lost(
    hub: Hub, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot reach the Hugging Face hub .* can be pushed later"):
        push(folders, "team/helpful")


@pytest.mark.parametrize("name", ["helpful", "team/", "a/b/c", "team/a b"])
def test_a_name_is_owner_and_name(hub: Hub, folders: dict[str, Path], name: str) -> None:
    with pytest.raises(UserError, match="owner/name, received"):
        push(folders, name)


def test_without_a_token_it_says_how_to_sign_in(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="set HF_TOKEN"):
        push(folders, "team/helpful")
