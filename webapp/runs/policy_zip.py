"""A model folder as a zip that is written while it is sent: nothing of it is held in memory or on disk."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from rso_core.artifacts import MANIFEST

_CHUNK = 1 << 20
_SAME_DATE = (1980, 1, 1, 0, 0, 0)  # so that one model gives one zip


class _Pipe(io.RawIOBase):
    """Takes what a writer writes and hands it over; it cannot be sought, and zipfile does without."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zip_folder(folder: Path, name: str, card: str) -> Iterator[bytes]:
    """Yield a zip with the card and the files of `folder` under `name`/, uncompressed: weights do not get smaller."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        entry = zipfile.ZipInfo(f"{name}/README.md", _SAME_DATE)
        entry.external_attr = 0o644 << 16
        archive.writestr(entry, card)
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.name in {MANIFEST, "README.md"}:
                continue
            entry = zipfile.ZipInfo(f"{name}/{path.relative_to(folder).as_posix()}", _SAME_DATE)
            entry.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
                    yield pipe.taken()
    yield pipe.taken()
