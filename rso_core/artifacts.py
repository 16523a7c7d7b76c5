"""Immutable, content-addressed outputs of stages: folders of files with a manifest.

An artifact's digest is the SHA-256 over the names and digests of its files, so equal content has one
address and writing it twice is harmless. A sharded stage's artifact lists its parts' digests instead of
files. Rows travel as Arrow IPC files. The store lives under a local folder, or under any fsspec URL with
a local cache in front of it. Knows nothing of what the files mean.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.ipc

from rso_core.errors import TransientError, UserError
from rso_core.vocabulary import canonical_json

MANIFEST = "manifest.json"
ROWS = "rows.arrow"
_CHUNK = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")

Row = dict[str, Any]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema, *, batch_size: int = 4096) -> int:
    """Write rows as an Arrow IPC file and return how many; memory stays bounded by `batch_size` rows."""
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        batch: list[Mapping[str, Any]] = []
        for row in rows:
            batch.append(row)
            count += 1
            if len(batch) == batch_size:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                batch = []
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return count


def read_table(paths: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of Arrow IPC files, in order, memory-mapped; all columns or those named."""
    tables = []
    for path in paths:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        tables.append(table.select(list(columns)) if columns is not None else table)
    return pa.concat_tables(tables)


def iterate_rows(paths: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of Arrow IPC files one by one; one batch is in memory at a time."""
    for path in paths:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            yield from (batch.select(list(columns)) if columns is not None else batch).to_pylist()


class ArtifactStore:
    """Artifacts under a root: `objects/<2 hex>/<digest>/`, with `staging/` and `checkpoints/` beside it.

    `url` is a folder, a file:// URL, or any fsspec URL; a remote store needs `cache`, a local folder that
    fetched artifacts, staging and checkpoints live in.
    """

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self.url = url
        local = "://" not in url or url.startswith("file://")
        self._remote = None if local else url.rstrip("/")
        if not local and cache is None:
            message = f"a remote artifact store ({url}) needs a local cache folder"
            raise ValueError(message)
        self.root = Path(url.removeprefix("file://")).absolute() if local else Path(cache or "").absolute()

    def staging(self, work: str = "", attempt: int = 1) -> Path:
        """Return a new, empty folder to write an artifact into.

        `work` names the piece of work, if it may be tried again: what this attempt or an earlier one left behind
        when it was killed is removed.
        """
        name = f"{work}.{attempt}.{uuid.uuid4().hex}" if work else uuid.uuid4().hex
        folder = self.root / "staging" / name
        for left in folder.parent.glob(f"{work}.*") if work else ():
            if int(left.name.split(".")[1]) <= attempt:
                shutil.rmtree(left, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def checkpoints(self, fingerprint: str) -> Path:
        """Return the folder of a stage's resumable checkpoints; it outlives the attempts."""
        folder = self.root / "checkpoints" / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard_checkpoints(self, fingerprint: str) -> None:
        """Remove the checkpoints of a stage that has finished."""
        shutil.rmtree(self.root / "checkpoints" / fingerprint, ignore_errors=True)

    def commit(self, staging: Path, *, kind: str, note: Mapping[str, Any] | None = None) -> str:
        """Turn a staging folder into an artifact and return its digest.

        Files are flushed to disk, then one rename makes the artifact visible whole. `note` is stored in
        the manifest and is not part of the digest.
        """
        files = {
            path.relative_to(staging).as_posix(): {"sha256": file_digest(path), "bytes": path.stat().st_size}
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        }
        digest = hashlib.sha256(
            canonical_json([[name, item["sha256"]] for name, item in files.items()]).encode()
        ).hexdigest()
        self._publish(staging, digest, {"kind": kind, "digest": digest, "files": files, "note": dict(note or {})})
        return digest

    def commit_parts(self, parts: Sequence[str], *, kind: str, note: Mapping[str, Any] | None = None) -> str:
        """Make the artifact of a sharded stage, which is the parts' artifacts in order; return its digest."""
        digest = hashlib.sha256(canonical_json(["parts", list(parts)]).encode()).hexdigest()
        self._publish(
            self.staging(), digest, {"kind": kind, "digest": digest, "parts": list(parts), "note": dict(note or {})}
        )
        return digest

    def _publish(self, staging: Path, digest: str, manifest: Mapping[str, Any]) -> None:
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
        fsync_tree(staging)
        target = self._local(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(target)
        except OSError:
            if not _touched(target / MANIFEST):
                staging.rename(target)  # it was forgotten at this very moment
            shutil.rmtree(staging, ignore_errors=True)
        if self._remote is not None:
            self._upload(target, digest)

    def exists(self, digest: str) -> bool:
        """Return whether the artifact is in the store."""
        if (self._local(digest) / MANIFEST).exists():
            return True
        if self._remote is None:
            return False
        filesystem, path = fsspec.core.url_to_fs(f"{self._remote_folder(digest)}/{MANIFEST}")
        return bool(filesystem.exists(path))

    def path(self, digest: str) -> Path:
        """Return the local folder of an artifact, fetching it first if need be. Raises UserError if absent."""
        folder = self._local(digest)
        if (folder / MANIFEST).exists():
            return folder
        if self._remote is None or not self.exists(digest):
            message = f"artifact {digest} is not in the store at {self.url}; it was deleted, or the store was moved"
            raise UserError(message)
        self._fetch(digest)
        return folder

    def manifest(self, digest: str) -> dict[str, Any]:
        """Return the manifest of an artifact."""
        value: dict[str, Any] = json.loads((self.path(digest) / MANIFEST).read_text(encoding="utf-8"))
        return value

    def files(self, digest: str, name: str = ROWS) -> list[Path]:
        """Return the paths of the file `name` in the artifact, one for each part, in order."""
        parts = self.manifest(digest).get("parts")
        folders = [self.path(digest)] if parts is None else [self.path(part) for part in parts]
        return [folder / name for folder in folders]

    def local_bytes(self, digest: str) -> int:
        """Return how large an artifact's own files are on this machine; 0 where it is not, or consists of parts."""
        file = self._local(digest) / MANIFEST
        if not file.exists():
            return 0
        manifest = json.loads(file.read_text(encoding="utf-8"))
        return sum(int(entry["bytes"]) for entry in manifest.get("files", {}).values())

    def untouched(self, kind: str, *, seconds: float) -> list[str]:
        """Return the artifacts of a kind on this machine that nobody has written, or written again, for so long."""
        before = time.time() - seconds
        found = (path for path in self.root.glob(f"objects/*/*/{MANIFEST}") if path.stat().st_mtime < before)
        manifests = ((path.parent.name, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(found))
        return [digest for digest, manifest in manifests if manifest["kind"] == kind]

    def forget(self, digest: str, *, seconds: float) -> bool:
        """Remove an artifact that has not been touched for so long; return whether it is gone.

        It is moved aside first. If somebody has written the same content again meanwhile it is moved back, and whoever
        comes later finds nothing and writes it anew.
        """
        aside = self.root / "staging" / f"forgotten-{digest}.{uuid.uuid4().hex}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        self._local(digest).rename(aside)
        if (aside / MANIFEST).stat().st_mtime > time.time() - seconds:
            with contextlib.suppress(OSError):  # somebody has written it anew since: then theirs stays
                aside.rename(self._local(digest))
            shutil.rmtree(aside, ignore_errors=True)
            return False
        shutil.rmtree(aside, ignore_errors=True)
        if self._remote is not None:
            filesystem, path = fsspec.core.url_to_fs(self._remote_folder(digest))
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)
        return True

    def _local(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            message = f"an artifact digest is 64 hexadecimal digits, got {digest!r}"
            raise ValueError(message)
        return self.root / "objects" / digest[:2] / digest

    def _remote_folder(self, digest: str) -> str:
        return f"{self._remote}/objects/{digest[:2]}/{digest}"

    def _upload(self, folder: Path, digest: str) -> None:
        # The manifest goes last: an artifact without one does not exist.
        filesystem, base = fsspec.core.url_to_fs(self._remote_folder(digest))
        names = [
            p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST
        ]
        for name in [*names, MANIFEST]:
            filesystem.makedirs(f"{base}/{name}".rsplit("/", 1)[0], exist_ok=True)
            filesystem.put_file(str(folder / name), f"{base}/{name}")

    def _fetch(self, digest: str) -> None:
        filesystem, base = fsspec.core.url_to_fs(self._remote_folder(digest))
        staging = self.staging()
        filesystem.get_file(f"{base}/{MANIFEST}", str(staging / MANIFEST))
        manifest = json.loads((staging / MANIFEST).read_text(encoding="utf-8"))
        for name, item in manifest.get("files", {}).items():
            target = staging / name
            if not target.resolve().is_relative_to(staging.resolve()):
                message = f"artifact {digest} names a file outside its folder: {name!r}"
                raise UserError(message)
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(f"{base}/{name}", str(target))
            if file_digest(target) != item["sha256"]:
                message = f"{name} of artifact {digest} arrived damaged from {self.url}"
                raise TransientError(message)
        self._local(digest).parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(self._local(digest))
        except OSError:
            shutil.rmtree(staging)  # another process fetched it first


def _touched(path: Path) -> bool:
    """Make a file as new as if it had just been written; return whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def fsync_tree(folder: Path) -> None:
    """Flush a folder and everything in it to the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
