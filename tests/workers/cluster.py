"""PostgreSQL, Celery workers and beat in a folder of their own, to be hurt and started again at will."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from django.db import connections

from workers import commands
from workers.embedded_postgres import EmbeddedPostgres
from workers.lifeline import dying_with_me

ROOT = Path(__file__).resolve().parents[2]
LEASE_SECONDS = 4.0
GRACE_SECONDS = 30.0
STILL_SECONDS = 150.0  # a runner that loads its libraries on a busy machine takes some fifteen


def run_script(module: str, *arguments: object) -> dict[str, Any]:
    """Run a script that hurts a cluster, in a process of its own, and return what it prints as its last line.

    The process is not this one because Django can be set up for one database only.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), check=False, capture_output=True, text=True)
    sys.stdout.write(done.stdout)  # shown when the test fails
    sys.stderr.write(done.stderr[-6000:])
    assert done.returncode == 0
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return value


def _environment() -> dict[str, str]:
    names = ("DATABASE_URL", "CELERY_BROKER_URL", "ARTIFACT_URL", "RSO_ARTIFACT_CACHE", "RSO_RUNNER_COMMAND")
    return {name: value for name, value in os.environ.items() if name not in names}


class Patience:
    """Ends a wait in which nothing moves any more; on a busy machine everything may take as long as it likes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state: object = None
        self._moved = time.monotonic()

    def look(self, state: object) -> None:
        """Note how far things are. Raises AssertionError, with the logs of the folder, when it was the same for too long."""
        if state != self._state:
            self._state, self._moved = state, time.monotonic()
        elif time.monotonic() - self._moved > STILL_SECONDS:
            logs = "".join(f"\n== {log.name}\n{log.read_text()[-1500:]}" for log in sorted(self._folder.glob("*.log")))
            message = f"nothing has moved for {STILL_SECONDS:g} s: {state}{logs}"
            raise AssertionError(message)


class Cluster:
    """Workers and beat over one database and one folder."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder / "postgres", durable=False)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands = {f"worker{index}": commands.worker("gpu,cpu", f"worker{index}") for index in range(workers)}
        self._commands["beat"] = commands.beat()

    @property
    def workers(self) -> list[str]:
        """Return the names of the workers that were started and not killed."""
        return [name for name in self.processes if name != "beat"]

    def start_missing(self) -> None:
        """Start every service that does not run, as a supervisor does."""
        for name, command in self._commands.items():
            if name not in self.processes or self.processes[name].poll() is not None:
                with (self.folder / f"{name}.log").open("ab") as log:
                    self.processes[name] = subprocess.Popen(
                        command.of(),
                        cwd=ROOT,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                        preexec_fn=dying_with_me(signal.SIGKILL),  # noqa: PLW1509 - it only makes one system call
                    )

    def kill(self, name: str) -> None:
        """Kill a service with its children; runners are not in its group and must see to themselves."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_child(self, name: str) -> None:
        """Kill the process in which a worker does its work, idle or not."""
        for child in psutil.Process(self.processes[name].pid).children():
            child.kill()

    def kill_postgres(self) -> None:
        """Kill the database server and start it again."""
        if self.postgres.pid is not None:
            os.kill(self.postgres.pid, signal.SIGKILL)
        self.postgres.restart()
        connections.close_all()  # those of this process lead to the killed one

    def kill_everything(self) -> None:
        """Kill every service, and start the database again."""
        for name in list(self.processes):
            self.kill(name)
        self.kill_postgres()

    def freeze(self, name: str) -> None:
        """Stop a worker, not its runner, for longer than its lease: when it wakes, its work is somebody else's."""
        group = self.processes[name].pid
        os.killpg(group, signal.SIGSTOP)
        time.sleep(LEASE_SECONDS * 1.5)
        os.killpg(group, signal.SIGCONT)

    def lose_messages(self) -> int:
        """Remove every message that nobody has taken, and return how many there were."""
        messages = list((self.folder / "broker" / "messages").glob("*.msg"))
        for path in messages:
            path.unlink()
        return len(messages)

    def runners(self, *names: str) -> list[psutil.Process]:
        """Return the runner processes of these workers, or of all."""
        found = []
        for name in names or self.workers:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(self.processes[name].pid).children(recursive=True)
                found += [child for child in children if is_runner(child)]
        return found

    def stop(self) -> None:
        """Ask every service to leave, and make those leave that do not."""
        for process in self.processes.values():
            process.terminate()
        for name in list(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.processes[name].wait(GRACE_SECONDS)
            if self.processes[name].poll() is None:
                self.kill(name)
        self.postgres.stop()


def is_runner(process: psutil.Process) -> bool:
    """Return whether a process was started as a runner."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return bool(words) and words[-1].endswith("runner") and process.status() != psutil.STATUS_ZOMBIE
    return False


# What may happen to a cluster. Each says in one word what it did, or "" when there was nothing to hurt.


def kill_worker(cluster: Cluster, draw: random.Random) -> str:
    cluster.kill(draw.choice(cluster.workers))
    return "worker"


def kill_child(cluster: Cluster, draw: random.Random) -> str:
    cluster.kill_child(draw.choice(cluster.workers))
    return "child"


def kill_runner(cluster: Cluster, draw: random.Random) -> str:
    runners = cluster.runners()
    if not runners:
        return ""
    with contextlib.suppress(psutil.NoSuchProcess):
        draw.choice(runners).kill()
        return "runner"
    return ""


def kill_postgres(cluster: Cluster, _: random.Random) -> str:
    cluster.kill_postgres()
    return "postgres"


def kill_everything(cluster: Cluster, _: random.Random) -> str:
    cluster.kill_everything()
    return "everything"


def double_messages(_cluster: Cluster, _draw: random.Random) -> str:
    """Send every message again, those of stages that wait for their inputs too."""
    from webapp.runs import queue
    from webapp.runs.models import Stage

    for stage in Stage.objects.exclude(status="done"):
        queue.ring(stage=stage.pk, queue=stage.queue, times=2)
    return "doubled"


def freeze_worker(cluster: Cluster, draw: random.Random) -> str:
    cluster.freeze(draw.choice(cluster.workers))
    return "frozen"


FAULTS: dict[str, Callable[[Cluster, random.Random], str]] = {
    "worker": kill_worker,
    "child": kill_child,
    "runner": kill_runner,
    "postgres": kill_postgres,
    "everything": kill_everything,
    "doubled": double_messages,
    "frozen": freeze_worker,
}


@contextlib.contextmanager
def cluster_in(folder: Path, *, workers: int = 2) -> Iterator[Cluster]:
    """Yield a cluster whose database runs; Django, not set up in this process yet, will speak to that."""
    cluster = Cluster(folder, workers)
    cluster.postgres.start()
    os.environ |= {
        "DATABASE_URL": cluster.postgres.url,
        "RSO_VAR_DIR": str(folder),
        "CELERY_BROKER_URL": "filesystem://",
        "ARTIFACT_URL": str(folder / "artifacts"),
        "RSO_LEASE_SECONDS": str(LEASE_SECONDS),
        "RSO_RETRY_SECONDS": "0.2",
        "RSO_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        yield cluster
    finally:
        cluster.stop()


def set_up_django() -> None:
    """Make the tables of the cluster's database."""
    import django
    from django.core.management import call_command

    os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
    django.setup()
    call_command("migrate", verbosity=0)


def is_over() -> bool:
    """Return whether every run has ended."""
    from webapp.runs.models import LIVE, Run

    return not Run.objects.filter(status__in=LIVE).exists()


def position() -> object:
    """Return how far the shards are: what changes while anything goes on."""
    from webapp.runs.models import Shard

    return list(Shard.objects.order_by("pk").values_list("stage__kind", "status", "attempt", "progress_done"))


def outcome() -> dict[str, Any]:
    """Return how the only run ended, and every attempt at its work by stage kind."""
    from webapp.runs.models import Attempt, Run, Shard, Stage

    run = Run.objects.get()
    done = Shard.objects.filter(attempts__outcome="done").order_by("pk")
    unsuccessful = Attempt.objects.exclude(outcome="done").order_by("pk")
    return {
        "run": [run.status, run.message],
        "digests": dict(Stage.objects.order_by("pk").values_list("kind", "digest")),
        "shards": list(Shard.objects.order_by("pk").values_list("pk", flat=True)),
        "shards_done": list(done.values_list("pk", flat=True)),
        "open_attempts": Attempt.objects.filter(ended=None).count(),
        "unsuccessful": list(unsuccessful.values_list("shard__stage__kind", "outcome")),
    }
