"""As whom the embedded PostgreSQL runs, and where: a user that is not root, and folders which that user can reach.

Modes of folders that are not ours are never changed. When root's data folder lies where nobody else may look,
the database and, if need be, a copy of its programs live under `/var/lib/rso-studio`; a note in the data folder
says so.
"""

import contextlib
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rso_core.errors import UserError
from workers.postgres_binaries import Binaries

_REACHABLE = Path("/var/lib/rso-studio")
_LONGEST_SOCKET_BYTES = 100  # the system's limit is 107 on Linux and 103 on macOS
_SOCKET_NAME = ".s.PGSQL.5432"


@dataclass(frozen=True)
class PostgresHome:
    """`folder` is ours; `place`, often the same, is where `user` keeps data and socket. No user: this process's."""

    folder: Path
    user: str | None
    place: Path

    def as_user(self) -> dict[str, Any]:
        """Return what makes a subprocess run as the server's user."""
        return {} if self.user is None else _as(self.user)

    def give(self, path: Path) -> None:
        """Make the server's user the owner of a file or folder."""
        if self.user is not None:
            shutil.chown(path, self.user)

    def socket_folder(self) -> Path:
        """Return a folder whose socket has a path short enough for the system."""
        near = self.place / "socket"
        if len(os.fsencode(near / _SOCKET_NAME)) <= _LONGEST_SOCKET_BYTES:
            return near
        digest = hashlib.sha256(os.fsencode(self.place)).hexdigest()[:12]
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nonexistent")
        short = runtime if runtime.is_dir() and self.user is None else Path("/tmp")  # noqa: S108 - `own` checks it
        return short / f"rso-{os.geteuid()}-{digest}"

    def own(self, folder: Path) -> None:
        """Make a folder that only the server's user may enter. One that somebody else put there is refused."""
        uid = os.geteuid() if self.user is None else pwd.getpwnam(self.user).pw_uid
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700, parents=True)
            self.give(folder)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) & 0o077:
            message = f"{folder} must be a folder that only user {uid} may enter, and is not. Remove it and start again"
            raise UserError(message)

    def reachable(self, binaries: Binaries) -> Binaries:
        """Return programs that the server's user can run: these, or a copy."""
        if self.user is None or _can_enter(self.user, binaries.folder / "postgres"):
            return binaries
        make_enterable(_REACHABLE)
        return binaries.copied_to(_REACHABLE / f"postgresql-{binaries.version}")


def make_enterable(folder: Path, mode: int = 0o711) -> None:
    """Make a folder that others may pass through, whatever the umask; one that exists keeps its mode."""
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(mode)


def find_home(folder: Path) -> PostgresHome:
    """Return the home of the database that belongs to `folder`, where it is or where it is to be."""
    if os.geteuid() != 0:
        return PostgresHome(folder, None, folder)
    note = folder / "location"
    if note.exists():
        place = Path(note.read_text(encoding="utf-8"))
        make_enterable(_REACHABLE)
        make_enterable(place)
        return PostgresHome(folder, _owner(place / "data") or _unprivileged(), place)
    user = _owner(folder / "data") or _unprivileged()
    if _can_enter(user, folder):
        return PostgresHome(folder, user, folder)
    place = _REACHABLE / hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    make_enterable(_REACHABLE)
    make_enterable(place)
    note.write_text(str(place), encoding="utf-8")
    return PostgresHome(folder, user, place)


def _unprivileged() -> str:
    """Return the system's own user for PostgreSQL, or the one that owns nothing."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    message = (
        "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody. Start as another user"
    )
    raise UserError(message)


def _owner(folder: Path) -> str | None:
    """Return who owns a folder; None for root and for no folder."""
    if not folder.exists() or folder.stat().st_uid == 0:
        return None
    return pwd.getpwuid(folder.stat().st_uid).pw_name


def _as(user: str) -> dict[str, Any]:
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _can_enter(user: str, path: Path) -> bool:
    """Return whether `user` may enter a folder, or run a program. The system is asked, as modes do not tell all."""
    command = ["/usr/bin/env", "test", "-x", str(path)]
    return subprocess.run(command, cwd="/", check=False, **_as(user)).returncode == 0
