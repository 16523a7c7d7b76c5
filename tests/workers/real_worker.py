"""A Celery worker of the product over a test's database and folder."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from workers import commands
from workers.lifeline import dying_with_me

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def real_worker(
    database_url: str, folder: Path, *, name: str = "worker", queues: str = "gpu,cpu", **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a worker that listens already or soon will; whoever killed it may leave all the same."""
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "RSO_VAR_DIR": str(folder),
        "ARTIFACT_URL": str(folder / "artifacts"),
        "RSO_ARTIFACT_CACHE": str(folder / "artifact-cache"),
        "CELERY_BROKER_URL": "filesystem://",
        "RSO_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    command = [sys.executable, "-W", "ignore", *commands.worker(queues, name).arguments]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=dying_with_me(signal.SIGKILL),  # noqa: PLW1509 - it only makes one system call
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
