import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from rso_core.plan import Plan, PlannedStage, fingerprint_of
from tests.webapp.graphs import CONFIG, researcher
from webapp.runs import jobs, services
from webapp.runs.models import Attempt, LogLine, MetricPoint, Run, Shard, Stage
from workers.runner_process import WarmRunner
from workers.supervision import supervise

pytestmark = pytest.mark.django_db

SCRIPTED = (sys.executable, "-m", "tests.workers.scripted_runner")
RESULT = {"result": True}


@pytest.fixture(autouse=True)
def own_folders(settings: Settings, tmp_path: Path) -> None:
    settings.VAR_DIR, settings.ARTIFACT_URL = tmp_path, str(tmp_path / "artifacts")
    settings.ARTIFACT_CACHE = str(tmp_path / "cache")
    settings.CELERY_BROKER_URL = "filesystem://"
    settings.LEASE_SECONDS = 2


@pytest.fixture
def runner() -> Iterator[WarmRunner]:
    with WarmRunner(SCRIPTED) as warm:
        yield warm


def run_of_script(*script: dict[str, Any], shards: int = 1) -> Run:
    config = {"script": list(script)}
    stage = PlannedStage("sft", "sft", config, {}, {}, fingerprint_of("sft", config, {}), shards)
    return services.create_run(plan=Plan((stage,), {}), config=CONFIG, user=researcher())


def never() -> bool:
    return False


def work(runner: WarmRunner, is_leaving: Callable[[], bool] = never) -> int:
    """Claim and supervise until nothing is due; return how many shards were taken."""
    taken = 0
    while (claim := jobs.claim(stage_id=Stage.objects.get().pk, worker="worker")) is not None:
        supervise(claim, runner, is_leaving)
        taken += 1
    return taken


def pid_of(runner: WarmRunner) -> int:
    return runner.get().pid


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_what_the_runner_says_is_stored_with_its_result(runner: WarmRunner) -> None:
    run = run_of_script({"progress": 4}, {"metrics": 1}, {"metrics": 2}, {"print": "a library's banner"}, RESULT)
    work(runner)
    shard = Shard.objects.get()
    assert (shard.status, shard.progress_total, shard.tokens_per_second) == ("done", 10, 5.0)
    assert [point.step for point in MetricPoint.objects.all()] == [1, 2]
    assert [line.message for line in LogLine.objects.all()] == ["a library's banner"]
    assert Stage.objects.get().digest == f"{pid_of(runner):064x}"
    run.refresh_from_db()
    assert run.status == "done"


def test_the_runner_stays_warm_between_shards(runner: WarmRunner) -> None:
    run_of_script(RESULT, shards=3)
    assert work(runner) == 3
    assert set(Shard.objects.values_list("digest", flat=True)) == {f"{pid_of(runner):064x}"}
    assert Stage.objects.get().summary == {"shard": 3, "prompts": 3}


@pytest.mark.parametrize(("reason", "status"), [("user", "failed"), ("out_of_memory", "out_of_memory")])
def test_a_failure_the_user_must_mend_is_shown_as_it_is(runner: WarmRunner, reason: str, status: str) -> None:
    run_of_script({"fail": reason})
    work(runner)
    stage = Stage.objects.get()
    assert (stage.status, stage.message, stage.traceback) == (status, "as the script says", "Traceback …")


def test_a_transient_failure_is_tried_again_with_a_fresh_runner(runner: WarmRunner, settings: Settings) -> None:
    settings.RETRY_SECONDS = 0
    run_of_script({"fail": "transient"})
    assert work(runner) == 5
    stage = Stage.objects.get()
    assert stage.status == "failed"
    assert stage.message == "as the script says (5 attempts in a row got no further)"


def test_a_killed_runner_is_recorded_with_its_signal_and_advice(runner: WarmRunner) -> None:
    run_of_script({"kill": int(signal.SIGKILL)})
    work(runner)
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.exit_code) == ("killed", -9)
    assert "SIGKILL" in attempt.message
    assert "batch_size" in attempt.message
    assert Shard.objects.get().status == "ready"


def test_a_runner_the_system_killed_for_want_of_memory_is_out_of_memory(
    runner: WarmRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr("workers.supervision._out_of_memory_kills", lambda: next(counts))
    run_of_script({"kill": int(signal.SIGKILL)})
    work(runner)
    assert Stage.objects.get().status == "out_of_memory"


def test_the_last_words_of_a_runner_that_left_are_kept(runner: WarmRunner, settings: Settings) -> None:
    settings.RETRY_SECONDS = 0
    run_of_script({"exit": 3})
    work(runner)
    stage = Stage.objects.get()
    assert (stage.status, stage.traceback) == ("failed", "last words\n")
    assert set(Attempt.objects.values_list("outcome", "exit_code")) == {("internal", 3)}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("script", [[], [{"ignore_term": True}]], ids=["polite", "stubborn"])
def test_stopping_a_run_ends_its_runner(
    runner: WarmRunner, script: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runner_process.GRACE_SECONDS", 0.5)
    run = run_of_script(*script, {"progress": 1}, {"sleep": 60})
    pid = pid_of(runner)

    def stop_when_it_runs() -> None:
        while not Shard.objects.filter(progress_done=1).exists():
            time.sleep(0.05)
        services.stop_run(run=run)
        connection.close()

    stopper = threading.Thread(target=stop_when_it_runs)
    stopper.start()
    began = time.monotonic()
    work(runner)
    stopper.join()
    assert time.monotonic() - began < 15
    assert not is_alive(pid)
    assert Stage.objects.get().status == "stopped"
    assert Attempt.objects.get().outcome == "stopped"


def test_a_leaving_worker_gives_its_shard_back_at_once(runner: WarmRunner) -> None:
    run_of_script({"sleep": 60})
    pid = pid_of(runner)
    asked = time.monotonic() + 1
    claim = jobs.claim(stage_id=Stage.objects.get().pk, worker="worker")
    supervise(claim, runner, lambda: time.monotonic() > asked)
    assert not is_alive(pid)
    shard = Shard.objects.get()
    assert (shard.status, shard.failures) == ("ready", 0)
    assert Attempt.objects.get().outcome == "released"


def test_the_lease_is_extended_while_a_silent_runner_works(runner: WarmRunner) -> None:
    run_of_script({"sleep": 4}, RESULT)
    work(runner)
    assert Stage.objects.get().status == "done"
    assert Attempt.objects.get().outcome == "done"


def test_a_result_that_cannot_be_stored_ends_the_attempt(
    runner: WarmRunner, settings: Settings, tmp_path: Path
) -> None:
    settings.RETRY_SECONDS = 0
    (tmp_path / "artifacts").write_text("a file where a folder should be")
    run_of_script(RESULT, shards=2)
    work(runner)
    stage = Stage.objects.get()
    assert stage.status == "failed"
    assert "the result could not be stored" in stage.message


WATCHED = """
import subprocess, sys, time
from workers.watchdog import Watchdog
runner = subprocess.Popen(["sleep", "60"])
print(runner.pid, flush=True)
with Watchdog(1.0, runner.kill) as watchdog:
    for _ in range(8):
        time.sleep(0.25)
        watchdog.beat()
    print("silent", flush=True)
    time.sleep(60)
"""


def test_the_watchdog_ends_the_runner_and_itself_when_the_database_is_silent() -> None:
    process = subprocess.Popen([sys.executable, "-c", WATCHED], stdout=subprocess.PIPE, text=True)
    with process:
        pid, word = int(process.stdout.readline()), process.stdout.readline()
        began = time.monotonic()
        assert process.wait(20) == -signal.SIGKILL
    assert word == "silent\n"
    assert 0.5 < time.monotonic() - began < 5
    assert not is_alive(pid)
