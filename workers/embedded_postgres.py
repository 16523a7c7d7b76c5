"""A PostgreSQL server of our own: its data folder, its start after whatever happened, its stop.

It listens on a Unix socket in a folder of mode 0700 and asks for a password (scram-sha-256), and it ends with the
process that started it. PostgreSQL refuses root; then it runs as an unprivileged user, with data and programs
where that user can reach them.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg2
from psycopg2 import sql

from rso_core.errors import UserError
from webapp.environment import made_secret
from workers.lifeline import FolderLock, HeldError, dying_with_me
from workers.postgres_binaries import Binaries, find_binaries
from workers.postgres_home import PostgresHome, find_home, make_enterable

DATABASE = USER = "rso"
START_SECONDS = 300.0  # the recovery after a crash may take that long
STOP_SECONDS = 30.0
_RETRY_SECONDS = 30.0
# Ends by itself, when what a killed server left behind has gone.
_PASSING = ("pre-existing shared memory block", "is still in use", "Address already in use")


class EmbeddedPostgres:
    """The server over `folder`. Not `durable` is faster, and loses data in a power cut: for tests."""

    def __init__(self, folder: Path, *, durable: bool = True, binaries: Binaries | None = None) -> None:
        self._folder = folder.absolute()
        self._durable = durable
        self._binaries = binaries
        self._lock = FolderLock(self._folder / "lock")
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._home = PostgresHome(self._folder, None, self._folder)

    @property
    def data(self) -> Path:
        """Return the data folder."""
        return self._home.place / "data"

    @property
    def log(self) -> Path:
        """Return the server's log."""
        return self._folder / "log"

    @property
    def url(self) -> str:
        """Return the value of DATABASE_URL."""
        password = made_secret(self._folder / "password")
        return f"postgresql://{USER}:{quote(password)}@/{DATABASE}?host={quote(str(self._home.socket_folder()))}"

    @property
    def pid(self) -> int | None:
        """Return the process id while the server runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server, with a new data folder if there is none. Raises UserError with what to do."""
        make_enterable(self._folder)
        try:
            self._lock.take({})
        except HeldError as held:
            message = f"the database in {self._folder} is in use by process {held.note.get('pid', '(unknown)')}. End that one first"
            raise UserError(message) from held
        try:
            self._prepare()
            self._run()
            self._create_database()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Start the server again after it has ended by itself."""
        if self._process is not None:
            self._process.wait()
        self._clear()
        self._run()

    def stop(self) -> None:
        """Stop the server; sessions that are still open are ended."""
        if self._process is not None:
            _end(self._process)
            self._process = None
        self._lock.release()

    # Before the start

    def _prepare(self) -> None:
        self._home = find_home(self._folder)
        major = _major_of(self.data)
        found = self._binaries or find_binaries(prefer_major=major)
        _refuse_other_major(self.data, major, found)
        self._binaries = self._home.reachable(found)
        self._home.own(self._home.socket_folder())
        if major is None:
            self._initialise()
        self._clear()

    def _initialise(self) -> None:
        """Make the data folder, whole or not at all."""
        draft = self._home.place / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        self._home.own(draft)
        password = self._home.socket_folder() / "password"
        password.touch(mode=0o600)
        self._home.give(password)
        password.write_text(made_secret(self._folder / "password"), encoding="ascii")
        command = [
            "-U",
            USER,
            "--auth=scram-sha-256",
            f"--pwfile={password}",
            "--locale=C",
            "--encoding=UTF8",
            "-k",
            "-D",
            str(draft),
        ]
        try:
            done = self._call("initdb", *command, *([] if self._durable else ["--no-sync"]))
        finally:
            password.unlink()
        if done.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            raise self._explained(done.stdout + done.stderr)
        draft.rename(self.data)

    def _clear(self) -> None:
        """End what is left of a killed server, and remove the files that would keep the next one from starting.

        Nobody else works on this folder while the lock is held. The process id in `postmaster.pid` may be that of
        any other process by now, so processes are known by the folder they work in.
        """
        left = list(_servers_in(self.data))
        masters = [process for process in left if not _is_session(process)]
        for process in masters or left:
            # A master ends its sessions; sessions without one are asked to leave at once.
            _signal(process, signal.SIGINT if masters else signal.SIGQUIT)
        _, alive = psutil.wait_procs(left, timeout=STOP_SECONDS)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=STOP_SECONDS)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for path in self._home.socket_folder().glob(".s.PGSQL.*"):
            path.unlink(missing_ok=True)

    # The server

    def _run(self) -> None:
        deadline = time.monotonic() + _RETRY_SECONDS
        while not self._comes_up():
            said = self._said()
            if time.monotonic() > deadline or not any(words in said for words in _PASSING):
                raise self._explained(said)
            time.sleep(0.3)

    def _comes_up(self) -> bool:
        """Start the server process and wait for it; False when it ended instead."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._home.socket_folder()),
            "unix_socket_permissions": "0700",
            "port": "5432",
            "shared_buffers": "64MB",
            **({} if self._durable else {"fsync": "off", "full_page_writes": "off"}),
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [self._program("postgres"), "-D", self.data, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dying_with_me(signal.SIGINT),  # noqa: PLW1509 - it only makes one system call
                **self._surroundings(),
            )
        return self._answers(self._process)

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None:
            try:
                self._connect().close()
            except psycopg2.OperationalError as error:
                if "password authentication failed" in str(error):
                    message = f"the password in {self._folder / 'password'} is not that of the data in {self.data}. Put the right file back"
                    raise UserError(message) from error
                if time.monotonic() > deadline:
                    message = f"the database did not start within {START_SECONDS:g} s; its log is {self.log}"
                    raise UserError(message) from error
                time.sleep(0.05)
            else:
                return True
        return False

    def _connect(self) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host=str(self._home.socket_folder()),
            port=5432,
            user=USER,
            password=made_secret(self._folder / "password"),
            dbname="postgres",
            connect_timeout=10,
        )

    def _create_database(self) -> None:
        with contextlib.closing(self._connect()) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if cursor.fetchone() is None:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def _said(self) -> str:
        """Return what the server wrote since its last start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def _explained(self, said: str) -> UserError:
        if "No space left on device" in said or "Disk quota exceeded" in said:
            free = shutil.disk_usage(self._home.place).free // 2**20
            return UserError(
                f"the database cannot write to {self._home.place}: the disk is full ({free} MB free). Free some space there and start "
                "again; what was saved is kept. Or set RSO_VAR_DIR to a folder on another disk"
            )
        last = "\n".join(said.strip().splitlines()[-8:])
        return UserError(
            f"the database in {self.data} did not start. PostgreSQL said:\n{last}\nIts whole log is {self.log}"
        )

    def _program(self, name: str) -> Path:
        if self._binaries is None:
            message = "start() finds the programs"
            raise ValueError(message)
        return self._binaries.folder / name

    def _surroundings(self) -> dict[str, Any]:
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ}
        return {"cwd": self._home.place, "env": kept | {"LC_ALL": "C"}, **self._home.as_user()}

    def _call(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program(name), *arguments],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            **self._surroundings(),
        )


def _major_of(data: Path) -> int | None:
    """Return which PostgreSQL a data folder belongs to; None when there is none."""
    version = data / "PG_VERSION"
    return int(version.read_text(encoding="ascii").split(".", maxsplit=1)[0]) if version.exists() else None


def _refuse_other_major(data: Path, major: int | None, binaries: Binaries) -> None:
    if major is None or major == binaries.major:
        return
    wrote = f"the data in {data} were written by PostgreSQL {major}, and what was found is {binaries.version} in {binaries.folder}"
    ways = f"install PostgreSQL {major} and set RSO_PG_BIN to its folder of programs"
    if major > binaries.major:
        message = f"{wrote}, which cannot read newer data. Either {ways}, or move {data} away to start empty"
    else:
        message = (
            f"{wrote}, which cannot read older data. To keep it: {ways}, start, save it with `pg_dump --format=custom`, stop, "
            f"move {data} away, unset RSO_PG_BIN, start, and load it with `pg_restore --clean`"
        )
    raise UserError(message)


def _servers_in(data: Path) -> Iterator[psutil.Process]:
    """Yield the PostgreSQL processes that work in a data folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and Path(process.cwd()) == data.resolve():
                yield process


def _is_session(process: psutil.Process) -> bool:
    """Return whether a process of the server is not its master; those carry what they do as their name."""
    with contextlib.suppress(psutil.Error, IndexError):
        return process.cmdline()[0].startswith("postgres: ")
    return True


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server: fast, then at once, then by force."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
