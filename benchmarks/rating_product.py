"""The product as `make up` starts it, over a folder that goes away afterwards, with Django set up on its database."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg2
from psycopg2 import sql

ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 180.0
_UP = "Ctrl-C stops everything"


@dataclass(frozen=True)
class Served:
    """A started product."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """Return the processor time that its web process has used."""
        times = self._web().cpu_times()
        return float(times.user + times.system)

    def web_process(self) -> int:
        """Return the number of its web process."""
        return int(self._web().pid)

    def _web(self) -> psutil.Process:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "uvicorn" in child.cmdline():
                    return child
        message = (
            f"the product on port {self.port} has no web process; its words are in the data folder's file `terminal`"
        )
        raise RuntimeError(message)

    def versions(self) -> dict[str, str]:
        """Return what the figures depend on."""
        import django
        import uvicorn
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('server_version'), current_setting('fsync')")
            version, fsync = cursor.fetchone()
        return {"postgresql": version, "fsync": fsync, "django": django.__version__, "uvicorn": uvicorn.__version__}


@contextlib.contextmanager
def product() -> Iterator[Served]:
    """Start the product and yield it; with DATABASE_URL it gets a database of its own there."""
    with tempfile.TemporaryDirectory(prefix="rso-bench-") as folder, _database() as environment:
        Path(folder).chmod(0o755)  # root's PostgreSQL runs as somebody else
        os.environ |= environment | {"RSO_VAR_DIR": folder, "DJANGO_SETTINGS_MODULE": "webapp.settings"}
        with started(Path(folder)) as served:
            import django

            django.setup()  # finds the address of the embedded database in the folder
            try:
                yield served
            finally:
                django.db.connections.close_all()


@contextlib.contextmanager
def seeded_product(fill: Callable[[], object]) -> Iterator[Served]:
    """Fill a new database before the product starts over it, so that no worker takes what is being made; yield it."""
    with tempfile.TemporaryDirectory(prefix="rso-bench-") as folder, _database() as environment:
        Path(folder).chmod(0o755)
        os.environ |= environment | {"RSO_VAR_DIR": folder, "DJANGO_SETTINGS_MODULE": "webapp.settings"}
        with _server(Path(folder)):
            import django
            from django.core.management import call_command

            django.setup()
            call_command("migrate", verbosity=0)
            fill()
            try:
                with started(Path(folder)) as served:
                    yield served
            finally:
                django.db.connections.close_all()


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[None]:
    """Run PostgreSQL in the folder unless DATABASE_URL names a server."""
    if os.environ.get("DATABASE_URL"):
        yield
        return
    from workers.embedded_postgres import EmbeddedPostgres

    server = EmbeddedPostgres(folder / "seeded-postgres", durable=True)
    server.start()
    os.environ["DATABASE_URL"] = server.url
    try:
        yield
    finally:
        server.stop()


@contextlib.contextmanager
def _database() -> Iterator[dict[str, str]]:
    url = os.environ.get("DATABASE_URL")
    if not url:
        yield {}
        return
    name = f"rso_bench_{uuid4().hex[:8]}"
    head, _, tail = url.partition("?")
    _execute(url, "CREATE DATABASE {}", name)
    try:
        yield {"DATABASE_URL": head.rpartition("/")[0] + f"/{name}" + (f"?{tail}" if tail else "")}
    finally:
        _execute(url, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


def _execute(url: str, statement: str, name: str) -> None:
    connection = psycopg2.connect(url, dbname="postgres")
    connection.autocommit = True
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Served]:
    """Start the product over a data folder (which the environment names too) and yield it."""
    port = _free_port()
    output = folder / "terminal"
    command = [sys.executable, "-m", "workers.services", "up", "--port", str(port)]
    with output.open("wb") as terminal:
        process = subprocess.Popen(command, cwd=ROOT, stdout=terminal, stderr=terminal, start_new_session=True)
    try:
        _wait(process, output)
        yield Served(port, process)
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while _UP not in output.read_text(encoding="utf-8"):
        if process.poll() is not None or time.monotonic() > deadline:
            message = f"the product did not start:\n{output.read_text(encoding='utf-8')}"
            raise RuntimeError(message)
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
