"""A worker that is killed while it answers in the playground: the answer is begun anew, once, and never given twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from django.db.models import F
from pytest_django import Settings

from rso_core.protocol import StageSpec
from tests.webapp.playground.asked import asked
from tests.workers.answering_runner import WHOLE
from tests.workers.cluster import is_runner
from tests.workers.real_worker import real_worker
from webapp.accounts.models import User
from webapp.playground import answering, tidying
from webapp.playground.answering import AnswerClaim, AnswerLost
from webapp.playground.models import Generation
from webapp.runs import queue

pytestmark = pytest.mark.django_db(transaction=True)
RUNNER = f"{sys.executable} -m tests.workers.answering_runner"
SECONDS = 60.0


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, list(Generation.objects.values("status", "text", "message", "attempt"))
        time.sleep(0.05)


def kill_while_it_answers(worker: subprocess.Popen[bytes], generation: Generation) -> None:
    """Kill a worker, with its children, once some words of the answer are in the database."""
    until(lambda: Generation.objects.filter(pk=generation.pk, status="running", text=WHOLE[:7]).exists())
    runners = [child for child in psutil.Process(worker.pid).children(recursive=True) if is_runner(child)]
    assert runners
    os.killpg(worker.pid, signal.SIGKILL)
    assert psutil.wait_procs(runners, timeout=10)[1] == [], "a runner dies with its worker"


def time_passes() -> None:
    """Let the lease of what nobody is heard of end, and do what every worker and the reaper do now and then."""
    Generation.objects.update(lease_expires=F("lease_expires") - timedelta(minutes=1))
    tidying.tidy()


def test_an_answer_whose_worker_was_killed_is_given_once_by_another_and_not_begun_a_third_time(
    researcher: User, database_url: str, tmp_path: Path, settings: Settings
) -> None:
    settings.VAR_DIR = tmp_path
    hold = tmp_path / "hold"
    hold.touch()
    first = asked(researcher, "a").generations.get()
    with real_worker(database_url, tmp_path, name="one", RSO_RUNNER_COMMAND=RUNNER) as worker:
        queue.ring_interactive()
        kill_while_it_answers(worker, first)
    time_passes()
    assert Generation.objects.get().status == "waiting"
    hold.unlink()

    with real_worker(database_url, tmp_path, name="two", RSO_RUNNER_COMMAND=RUNNER) as worker:
        queue.ring_interactive()
        until(lambda: Generation.objects.filter(pk=first.pk, status="done").exists())
        first.refresh_from_db()
        assert (first.text, first.tokens, first.attempt) == (WHOLE, 7, 2)
        lost = AnswerClaim(first.pk, 1, StageSpec(kind="answer", fingerprint="answer", config={}, inputs={}))
        with pytest.raises(AnswerLost):  # had the first worker only been cut off
            answering.finish(lost, {"text": "x", "tokens": 1, "truncated": False, "prompt_truncated": False})

        hold.touch()
        second = asked(researcher, "b").generations.get()
        Generation.objects.filter(pk=second.pk).update(attempt=1)  # a worker was lost with it already
        queue.ring_interactive()
        kill_while_it_answers(worker, second)
    time_passes()
    second.refresh_from_db()
    assert (second.status, second.message) == ("failed", tidying.WORKER_LOST)
    first.refresh_from_db()
    assert (first.status, first.text) == ("done", WHOLE)
