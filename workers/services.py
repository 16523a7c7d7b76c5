"""Starts the product on one machine, keeps it running, and stops it: `python -m workers.services up`.

Database, web process, workers and beat are children of this process. Ctrl-C stops them in order; if this process
is killed, the system ends them. A child that ends by itself is started again, after a pause that grows. This
process loads neither Django's settings nor torch, so that it costs little.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rso_core.errors import UserError
from workers import commands
from workers.children import BASE_DIR, Child, Children, last_lines, rotated
from workers.commands import Command
from workers.embedded_postgres import EmbeddedPostgres
from workers.lifeline import FolderLock, HeldError, dying_with_me
from workers.postgres_home import make_enterable
from workers.web_address import WebAddress, refuse_taken_port, wait_until_it_answers

_TICK_SECONDS = 0.3
_DEMO_USER = "demo"


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked
    """Raised where the start waits, when it is to be given up."""


class Studio:
    """The product on one machine, over one data folder."""

    def __init__(self, *, address: WebAddress, var: Path, gpu_workers: int) -> None:
        self._address, self._var, self._gpu_workers = address, var, gpu_workers
        self._log = var / "log"
        self._children = Children()
        self._postgres: EmbeddedPostgres | None = None
        self._environment = os.environ | {"RSO_VAR_DIR": str(var), "PYTHONUNBUFFERED": "1"}
        self._lock = FolderLock(var / "running")
        self._is_asked_to_stop = False

    def up(self, then: Sequence[str]) -> int:
        """Start everything, run `then` if there is any, serve until asked to stop; return the exit code."""
        self._take_folder()
        try:
            with self._listening_to_signals():
                self._start()
                return self._serve(then)
        except Stopped:
            return 0
        finally:
            self._stop()

    def _take_folder(self) -> None:
        make_enterable(self._var)  # root's database runs as somebody else
        try:
            self._lock.take({"url": self._address.url})
        except HeldError as held:
            message = (
                f"RSO Studio is already running at {held.note.get('url', 'an unknown address')} (process "
                f"{held.note.get('pid', 'unknown')}, data in {self._var}). Use that one, or stop it with Ctrl-C in its terminal, "
                "or start a second one beside it: RSO_VAR_DIR=/another/folder make up PORT=8001"
            )
            raise UserError(message) from held
        refuse_taken_port(self._address)

    @contextlib.contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            yield
        finally:
            # From here on a second Ctrl-C would leave children behind; stopping has a bound of its own.
            for number in before:
                signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._is_asked_to_stop = True

    # Start

    def _start(self) -> None:
        self._log.mkdir(parents=True, exist_ok=True)
        self._start_database()
        _say("Preparing the tables")
        self._once(commands.migrate())
        self._start_services()
        _say("Starting web and workers")
        wait_until_it_answers(self._address, self._look_after_start)

    def _start_database(self) -> None:
        if self._environment.get("DATABASE_URL"):
            _say("Using the database of DATABASE_URL")
            return
        _say(f"Starting the database in {self._var / 'postgres'}")
        self._postgres = EmbeddedPostgres(self._var / "postgres")
        self._postgres.start()
        self._environment["DATABASE_URL"] = self._postgres.url
        # For commands beside the product, such as manage.py import_dataset.
        kept = self._var / "database-url"
        kept.touch(mode=0o600)
        kept.write_text(self._postgres.url, encoding="utf-8")

    def _start_services(self) -> None:
        devices = _devices(self._gpu_workers)
        self._add("web", commands.web(self._address.host, self._address.port))
        for number, device in enumerate(devices, start=1):
            extra = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
            self._add(f"gpu{number}", commands.worker("gpu", f"gpu{number}"), extra)
        self._add("cpu", commands.worker("cpu", "cpu"))
        self._add("beat", commands.beat())

    def _add(self, name: str, command: Command, extra: dict[str, str] | None = None) -> None:
        log = rotated(self._log / f"{name}.log")
        self._children.start(Child(name, command.of(), self._environment | (extra or {}), log))

    def _once(self, command: Command) -> str:
        """Run a command to its end and return what it printed. Raises UserError with its last words."""
        done = subprocess.run(
            command.of(),
            check=False,
            cwd=BASE_DIR,
            env=self._environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if self._is_asked_to_stop:
            raise Stopped
        if done.returncode:
            shown = "\n".join((done.stdout + done.stderr).strip().splitlines()[-6:])
            message = f"`{commands.shown(['python', *command.arguments])}` failed:\n{shown}"
            raise UserError(message)
        return done.stdout.strip()

    def _look_after_start(self) -> None:
        """Give up when a service ends before the product was up once."""
        if self._is_asked_to_stop:
            raise Stopped
        for child in self._children.ended():
            message = (
                f"{child.name} ended while it was starting (exit code {child.exit_code}). Its log ({child.log}) says:\n"
            )
            raise UserError(message + last_lines(child.log))

    # Serve

    def _serve(self, then: Sequence[str]) -> int:
        _say(f"\nRSO Studio is at {self._address.url}")
        if path := self._once(commands.first_admin()):
            _say(f"First sign-in, as admin; this link works once: {self._address.url}{path}")
        _say(f"Logs are in {self._log}. Ctrl-C stops everything.\n")
        client = self._client(then) if then else None
        while not self._is_asked_to_stop:
            self._look_after()
            if client is not None and client.poll() is not None:
                if client.returncode or os.environ.get("DEMO_EXIT") == "1":
                    return client.returncode
                _say(f"\nRSO Studio keeps running at {self._address.url}. Ctrl-C stops everything.")
                client = None
            time.sleep(_TICK_SECONDS)
        if client is not None:
            client.terminate()
            client.wait()
        return 0

    def _client(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        path = self._once(commands.one_time_link(_DEMO_USER, "researcher"))
        surroundings = {"BASE_URL": self._address.url, "ONE_TIME_LINK": self._address.url + path}
        # In a session of its own, as the services are: Ctrl-C is for this process, which ends the client.
        return subprocess.Popen(
            command,
            cwd=BASE_DIR,
            env=self._environment | surroundings,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dying_with_me(signal.SIGKILL),  # noqa: PLW1509 - it makes one system call
        )

    def _look_after(self) -> None:
        if self._postgres is not None and self._postgres.pid is None:
            _say("The database ended by itself; starting it again")
            self._postgres.restart()
        for child in self._children.start_due():
            _say(
                f"{child.name} ended by itself (exit code {child.exit_code}); starting it again in {child.pause:g} s; see {child.log}"
            )

    def _stop(self) -> None:
        if self._children:
            _say("Stopping")
        self._children.stop()
        if self._postgres is not None:
            self._postgres.stop()
            (self._var / "database-url").unlink(missing_ok=True)
        self._lock.release()


def _devices(wanted: int) -> list[str | None]:
    """Return a CUDA device for each GPU worker; None leaves the choice to the environment.

    `wanted` 0 means one for each GPU of the machine, and one when there is none.
    """
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    count = wanted or max(present, 1)
    if not present or "CUDA_VISIBLE_DEVICES" in os.environ:
        return [None] * count
    return [str(number % present) for number in range(count)]


def _say(words: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may have gone; what runs must still be stopped in order
        sys.stdout.write(words + "\n")
        sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.services", description="Run RSO Studio on this machine.")
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", help="start database, web, workers and beat; Ctrl-C stops them")
    up.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    up.add_argument("--port", type=int, default=8000)
    up.add_argument("--gpu-workers", type=int, default=0, metavar="N", help="default: one for each GPU, at least one")
    up.add_argument(
        "--then", nargs=argparse.REMAINDER, default=[], metavar="COMMAND", help="run this once the product is up"
    )
    return parser


def main() -> int:
    """Start, serve, stop."""
    arguments = _parser().parse_args()
    os.umask(0o077)  # what people upload and train is theirs
    var = Path(os.environ.get("RSO_VAR_DIR") or BASE_DIR / "var").expanduser().absolute()
    address = WebAddress(arguments.host, arguments.port)
    try:
        return Studio(address=address, var=var, gpu_workers=arguments.gpu_workers).up(arguments.then)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error.strerror}: {error.filename or shlex.join(sys.argv)}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
