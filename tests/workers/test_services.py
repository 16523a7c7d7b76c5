"""The product as a person starts it: `python -m workers.services up`, watched from outside."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import reachable_folder

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"http://\S+/first-sign-in/\S+")
SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Product:
    """One `up` over a data folder, with all it says."""

    def __init__(self, var: Path, *options: str, output: str = "terminal", **environment: str) -> None:
        self.var, self.port = var, free_port()
        self.output = var / output
        kept = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "CELERY_BROKER_URL"}}
        with self.output.open("ab") as terminal:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.services", "up", "--port", str(self.port), *options],
                cwd=ROOT,
                env=kept | {"RSO_VAR_DIR": str(var)} | environment,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def until(self, words: str) -> str:
        """Wait until it has said something; fail with all it said when it ends before that."""
        deadline = time.monotonic() + SECONDS
        while words not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.2)
        return self.said

    def until_it_answers(self) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(OSError):
                if self.get("/sign-in/")[0] == 200:
                    return
            assert time.monotonic() < deadline, self.said
            time.sleep(0.5)

    def ends(self) -> int:
        return self.process.wait(SECONDS)

    def get(self, path: str) -> tuple[int, str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            return response.status, response.read().decode()


def processes_of(var: Path) -> list[psutil.Process]:
    """Return every process that works for a data folder, however it was started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            works_here = process.environ().get("RSO_VAR_DIR") == str(var) or str(var) in " ".join(process.cmdline())
            if works_here and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
    return found


def line_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def services_of(var: Path) -> set[str]:
    words = {"uvicorn": "web", "-Q gpu": "gpu", "-Q cpu": "cpu", " beat ": "beat", "postgres -D": "database"}
    lines = [line_of(process) + " " for process in processes_of(var)]
    return {name for word, name in words.items() if any(word in line for line in lines)}


EVERY_SERVICE = {"web", "gpu", "cpu", "beat", "database"}


@pytest.fixture
def var() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder
        kill(processes_of(folder))


def settled(var: Path) -> list[psutil.Process]:
    """Return what still runs for a folder after what was killed has had time to take its children along."""
    deadline = time.monotonic() + 20
    while (left := processes_of(var)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def test_killed_services_come_back_ctrl_c_stops_everything_and_killing_everything_loses_nothing(var: Path) -> None:
    product = Product(var)
    link = LINK.search(product.until("Ctrl-C stops everything"))
    assert link is not None
    assert services_of(var) == EVERY_SERVICE
    assert product.get(link[0].split(str(product.port))[1])[0] == 200
    assert [name for name in ("log", "uploads", "secrets") if (var / name).stat().st_mode & 0o077] == []

    second = Product(var, output="second")
    assert second.ends() == 1
    assert f"already running at http://127.0.0.1:{product.port} (process {product.process.pid}" in second.said

    kill(
        process for process in processes_of(var) if any(word in line_of(process) for word in ("uvicorn", "postgres -D"))
    )
    product.until("The database ended by itself")
    product.until("web ended by itself")
    product.until_it_answers()

    os.killpg(product.process.pid, signal.SIGINT)  # as the terminal sends it: to the whole foreground group
    assert product.ends() == 0
    assert settled(var) == []

    again = Product(var)
    again.until(f"RSO Studio is at http://127.0.0.1:{again.port}")
    again.until_it_answers()
    assert services_of(var) == EVERY_SERVICE
    # The same admin, still without a password: had the data gone, there would be another person.
    people = {found.split("/first-sign-in/")[1].split(".")[0] for found in LINK.findall(product.said)}
    assert len(people) == 1

    kill(processes_of(var))
    again.ends()
    assert settled(var) == []
    last = Product(var, output="last")
    last.until("Ctrl-C stops everything")
    last.until_it_answers()
    assert {found.split("/first-sign-in/")[1].split(".")[0] for found in LINK.findall(last.said)} == people
    last.process.kill()
    last.ends()
    assert settled(var) == [], "killing the supervisor leaves nothing"


CLIENT = (
    "import json, os, sys, urllib.request; link = os.environ['ONE_TIME_LINK']; "
    "print(json.dumps([os.environ['BASE_URL'], link, urllib.request.urlopen(link).status]), flush=True); sys.exit(int(sys.argv[1]))"
)


def test_a_command_runs_with_the_address_and_a_way_in_and_its_failure_ends_the_product(var: Path) -> None:
    product = Product(var, "--then", sys.executable, "-c", CLIENT, "7")
    assert product.ends() == 7
    base, link, status = next(json.loads(line) for line in product.said.splitlines() if line.startswith("["))
    assert base == f"http://127.0.0.1:{product.port}"
    assert link.startswith(f"{base}/first-sign-in/")
    assert status == 200
    assert settled(var) == []


@pytest.mark.slow
@pytest.mark.parametrize("exits", [True, False])
def test_after_a_command_that_went_well_the_product_goes_on_unless_it_is_to_end(var: Path, *, exits: bool) -> None:
    product = Product(var, "--then", sys.executable, "-c", CLIENT, "0", DEMO_EXIT="1" if exits else "")
    if not exits:
        product.until("keeps running")
        product.process.terminate()
    assert product.ends() == 0
    assert ("keeps running" in product.said) != exits


def test_a_taken_port_is_named_before_anything_is_started(var: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        product = Product(var, "--port", str(port))
        assert product.ends() == 1
    assert f"port {port} on 127.0.0.1 is taken" in product.said
    assert f"make up PORT={port + 1 if port < 65535 else 8000}" in product.said
    assert processes_of(var) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "70000"], "--port must be between 1 and 65535, got 70000"),
        (["--host", "203.0.113.7"], "--host must be an address of this machine, got '203.0.113.7'"),
    ],
)
def test_an_address_that_cannot_be_is_refused(var: Path, options: list[str], words: str) -> None:
    product = Product(var, *options)
    assert product.ends() == 1
    assert words in product.said


def test_a_setting_that_cannot_be_is_named(var: Path) -> None:
    product = Product(var, RSO_LEASE_SECONDS="soon", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert product.ends() == 1
    assert "RSO_LEASE_SECONDS must be a number of at least 1, got 'soon'" in product.said


@pytest.mark.slow
def test_a_service_that_keeps_ending_is_named_and_tried_again_after_longer_and_longer(var: Path) -> None:
    (var / "broker").write_text("in the way")
    product = Product(var)
    with contextlib.suppress(AssertionError):  # it may end before the web process answers, which ends the start
        product.until("starting it again in 2 s")
        product.process.terminate()
    product.ends()
    assert re.search(r"(gpu1|cpu|beat) ended (by itself|while it was starting) \(exit code [12]\)", product.said)
    assert f"{var}/log/" in product.said
    assert settled(var) == []


def test_the_supervisor_stays_light() -> None:
    program = "import sys, workers.services; print([n for n in ('torch', 'celery', 'django.conf', 'pyarrow', 'pydantic') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
