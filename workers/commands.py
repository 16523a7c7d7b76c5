"""The command of every service, defined once: the supervisor runs them, and `deploy/` repeats them under a test."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

_SERVER_OPTIONS = (
    "--no-proxy-headers --no-server-header --no-access-log --log-level warning --timeout-graceful-shutdown 5"
)


@dataclass(frozen=True)
class Command:
    """A Python program of this project with its arguments."""

    arguments: tuple[str, ...]

    def of(self, python: str = sys.executable) -> list[str]:
        """Return the command line, run by this interpreter unless another is given."""
        return [python, *self.arguments]


def web(host: str, port: int) -> Command:
    """Return the web process. Who may speak for clients (proxies) is decided in `webapp/asgi.py`."""
    return _command("-m uvicorn webapp.asgi:application", f"--host {host} --port {port}", _SERVER_OPTIONS)


def playground(host: str, port: int) -> Command:
    """Return the playground as a process of its own, for teams; on one machine it is a part of the web process."""
    return _command("-m uvicorn webapp.playground.asgi:application", f"--host {host} --port {port}", _SERVER_OPTIONS)


def worker(queue: str, name: str) -> Command:
    """Return a worker of one queue (and the playground's) with one slot; of queue gpu there is one for each GPU."""
    # Neither asking other workers at the start nor listening to their events: the database says what is due.
    options = "-c 1 --prefetch-multiplier 1 --without-mingle --without-gossip --loglevel WARNING"
    return _command("-m celery -A workers.app worker", f"-Q {queue},interactive -n {name}@%h", options)


def beat() -> Command:
    """Return the clock that has somebody look for work nobody claimed."""
    return _command("-m celery -A workers.app beat", "--loglevel WARNING")


def migrate() -> Command:
    """Return what brings the tables up to date."""
    return _command("manage.py migrate --noinput")


def first_admin() -> Command:
    """Return what creates the first admin, and prints the path of a one-time link until that is used."""
    return _command("manage.py first_admin")


def one_time_link(username: str, role: str) -> Command:
    """Return what prints the path of a new one-time link for somebody, who is created if need be."""
    return _command("manage.py one_time_link", username, "--role", role)


def _command(*parts: str) -> Command:
    return Command(tuple(word for part in parts for word in part.split()))


def shown(arguments: Sequence[str]) -> str:
    """Return a command line as a person would type it."""
    return " ".join(arguments)
