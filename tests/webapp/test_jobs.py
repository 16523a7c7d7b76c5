import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from rso_core.protocol import Log, Metrics, Progress
from tests.webapp.graphs import (
    DIAMOND,
    claim,
    digest_of,
    expire_lease,
    finish,
    finish_everything,
    finish_stage,
    forget_delays,
    researcher,
    run_of,
    run_status,
    shard_of,
    stage_of,
    statuses,
)
from webapp.runs import jobs, services
from webapp.runs.artifacts import store
from webapp.runs.failures import Failed, Reason
from webapp.runs.jobs import Claim
from webapp.runs.models import Attempt, LogLine, MetricPoint, Run, Shard
from webapp.runs.reaper import reap

pytestmark = pytest.mark.django_db

ONE = {"sft": ((), 1)}
MANY = {"sampling": ((), 40)}


@pytest.fixture(autouse=True)
def own_folders(settings: Settings, tmp_path: Path) -> None:
    settings.VAR_DIR, settings.ARTIFACT_URL = tmp_path, str(tmp_path / "artifacts")
    settings.CELERY_BROKER_URL = "filesystem://"


@pytest.fixture
def run() -> Run:
    return run_of(DIAMOND, researcher())


def in_threads(number: int, action: Callable[[int], Any]) -> list[Any]:
    """Call `action(i)` in `number` threads at once; return what they returned, raising what they raised."""
    results, errors, gate = [], [], threading.Barrier(number)

    def body(index: int) -> None:
        try:
            gate.wait()
            results.append(action(index))
        except Exception as error:  # noqa: BLE001 - given back to the test
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=body, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def test_a_stage_waits_until_all_its_inputs_are_done(run: Run) -> None:
    assert statuses(run) == {"sft": "ready", "reward_training": "ready", "sampling": "waiting", "scoring": "waiting"}
    assert claim(run, "sampling") is None
    finish_stage(run, "sft")
    assert statuses(run)["sampling"] == "ready"
    finish_stage(run, "sampling")
    assert statuses(run)["scoring"] == "waiting"
    finish_stage(run, "reward_training")
    assert statuses(run)["scoring"] == "ready"
    assert run_status(run) == "ready"
    finish_stage(run, "scoring")
    assert run_status(run) == "done"


def test_a_claim_carries_the_digests_of_the_inputs(run: Run) -> None:
    finish_everything(run_of({"sft": ((), 1), "reward_training": ((), 1)}, researcher("other")))
    finish_stage(run, "sampling")
    spec = claim(run, "scoring").spec
    assert spec.inputs == {
        "from_sampling": stage_of(run, "sampling").digest,
        "from_reward_training": stage_of(run, "reward_training").digest,
    }
    assert (spec.shard_index, spec.shard_count, spec.attempt) == (0, 2, 1)


def test_a_sharded_stage_lists_its_parts_in_order_whatever_order_they_finish_in(run: Run) -> None:
    finish_stage(run, "sft")
    claims = [claim(run, "sampling") for _ in range(3)]
    for claimed in reversed(claims):
        finish(claimed, prompts=10, nested={"tokens": 2.5}, unit="prompts")
    stage = stage_of(run, "sampling")
    assert store().manifest(stage.digest)["parts"] == [digest_of(item.shard_id) for item in claims]
    assert stage.summary == {"prompts": 30, "nested": {"tokens": 7.5}, "unit": "prompts"}


@pytest.mark.django_db(transaction=True)
def test_each_shard_is_claimed_once_however_many_workers_ask_at_once() -> None:
    run = run_of(MANY, researcher())
    stage_id = stage_of(run, "sampling").pk

    def take_all(index: int) -> list[int]:
        taken = []
        while (claimed := jobs.claim(stage_id=stage_id, worker=f"worker {index}")) is not None:
            taken.append(claimed.shard_id)
        return taken

    taken = [shard for shards in in_threads(8, take_all) for shard in shards]
    # A worker that finds every due shard locked by others at that moment leaves; none is lost.
    assert len(taken) == len(set(taken)) == 40
    assert Attempt.objects.count() == 40


@pytest.mark.django_db(transaction=True)
def test_shards_finished_at_the_same_time_finish_the_stage_once_and_open_the_next() -> None:
    run = run_of({"sampling": ((), 8), "scoring": (("sampling",), 1)}, researcher())
    claims = [claim(run, "sampling") for _ in range(8)]
    in_threads(8, lambda index: finish(claims[index], prompts=1))
    assert statuses(run) == {"sampling": "done", "scoring": "ready"}
    assert stage_of(run, "sampling").summary == {"prompts": 8}


@pytest.mark.django_db(transaction=True)
def test_inputs_finished_at_the_same_time_open_the_stage_that_waits_for_both() -> None:
    graph = {"sft": ((), 1), "reward_training": ((), 1), "scoring": (("sft", "reward_training"), 1)}
    for seed in range(5):
        run = run_of(graph, researcher(f"r{seed}"), seed=seed)
        claims = [claim(run, "sft"), claim(run, "reward_training")]
        in_threads(2, lambda index, claims=claims: finish(claims[index]))
        assert statuses(run)["scoring"] == "ready"


def test_a_stale_writer_is_refused_and_changes_nothing(run: Run) -> None:
    stale = claim(run, "sft", "first")
    expire_lease(stale)
    reap()
    forget_delays()
    fresh = claim(run, "sft", "second")
    assert (stale.shard_id, fresh.attempt) == (fresh.shard_id, stale.attempt + 1)
    report = jobs.Report(
        Progress(done=9, total=9, unit="steps"), [Metrics(step=1, values={"loss": 1.0})], [Log(message="stale")]
    )
    for write in (
        lambda: jobs.record(stale, report),
        lambda: finish(stale),
        lambda: jobs.fail_shard(stale, Failed(reason="user", message="stale")),
        lambda: jobs.release(stale),
    ):
        with pytest.raises(jobs.LeaseLost):
            write()
    shard = shard_of(fresh)
    assert (shard.status, shard.worker, shard.progress_done) == ("running", "second", 0)
    assert not MetricPoint.objects.exists()
    assert not LogLine.objects.filter(message="stale").exists()
    finish(fresh)
    assert list(Attempt.objects.order_by("number").values_list("outcome", flat=True)) == ["lease_lost", "done"]


def test_a_report_extends_the_lease_and_stores_what_the_runner_said(run: Run, settings: Settings) -> None:
    claimed = claim(run, "sft")
    before = shard_of(claimed).lease_expires
    settings.LEASE_SECONDS = 120
    points = [Metrics(step=1, values={"loss": 2.0}), Metrics(step=1, values={"loss": 1.0, "norm": float("nan")})]
    jobs.record(claimed, jobs.Report(Progress(done=3, total=9, unit="steps"), points, [Log(message="a\x00b\ud800")]))
    shard = shard_of(claimed)
    assert shard.lease_expires > before
    assert (shard.progress_done, shard.progress_total, shard.progress_unit) == (3, 9, "steps")
    assert [point.values for point in MetricPoint.objects.all()] == [{"loss": 1.0, "norm": None}]
    assert LogLine.objects.get().message == "a\ufffdb?"


def test_a_resumed_training_writes_a_step_again_but_not_twice(run: Run) -> None:
    claimed = claim(run, "sft")
    for loss in (2.0, 1.5):
        jobs.record(claimed, jobs.Report(metrics=[Metrics(step=7, values={"loss": loss})]))
    assert [point.values for point in MetricPoint.objects.all()] == [{"loss": 1.5}]


@pytest.mark.parametrize(("reason", "status"), [("user", "failed"), ("out_of_memory", "out_of_memory")])
def test_an_error_that_would_come_again_is_never_retried(run: Run, reason: Reason, status: str) -> None:
    claimed = claim(run, "sft")
    jobs.fail_shard(claimed, Failed(reason=reason, message="batch_size must be smaller", traceback="Traceback …"))
    stage = stage_of(run, "sft")
    assert (stage.status, stage.message, stage.traceback) == (status, "batch_size must be smaller", "Traceback …")
    assert run_status(run) == status
    assert "batch_size must be smaller" in Run.objects.get(pk=run.pk).message
    forget_delays()
    reap()
    assert claim(run, "sft") is None
    assert Attempt.objects.filter(shard__stage=stage).count() == 1


def test_a_failed_run_frees_the_workers_of_its_other_stages(run: Run) -> None:
    claimed = claim(run, "reward_training")
    jobs.fail_shard(claim(run, "sft"), Failed(reason="user", message="wrong"))
    assert statuses(run) == {
        "sft": "failed",
        "reward_training": "stopped",
        "sampling": "stopped",
        "scoring": "stopped",
    }
    with pytest.raises(jobs.LeaseLost):
        jobs.record(claimed)


@pytest.mark.parametrize(("reason", "bound"), [("transient", 5), ("killed", 5), ("internal", 2)])
def test_other_failures_are_retried_after_growing_delays_with_a_bound(
    run: Run, reason: Reason, bound: int, settings: Settings
) -> None:
    settings.RETRY_SECONDS = 5
    delays = []
    for number in range(1, bound + 1):
        claimed = claim(run, "sft")
        assert claimed.attempt == number
        jobs.fail_shard(claimed, Failed(reason=reason, message="no space left on device", exit_code=-9))
        assert claim(run, "sft") is None
        ended = Attempt.objects.get(shard=claimed.shard_id, number=number).ended
        if (not_before := shard_of(claimed).not_before) is not None:
            delays.append(round((not_before - ended).total_seconds()))
        forget_delays()
    stage = stage_of(run, "sft")
    assert delays == [5, 10, 20, 40][: bound - 1]
    assert stage.status == "failed"
    assert stage.message.startswith("no space left on device")
    assert run_status(run) == "failed"
    assert set(Attempt.objects.filter(shard__stage=stage).values_list("outcome", "exit_code")) == {(reason, -9)}


def test_attempts_that_get_further_are_not_counted_against_the_bound(run: Run) -> None:
    for done in range(1, 12):
        claimed = claim(run, "sft")
        jobs.record(claimed, jobs.Report(Progress(done=done, total=20, unit="steps")))
        jobs.fail_shard(claimed, Failed(reason="killed", message="killed"))
        forget_delays()
    assert statuses(run)["sft"] == "ready"


def test_a_worker_that_always_dies_without_a_word_is_bounded_too(run: Run) -> None:
    for _ in range(5):
        expire_lease(claim(run, "sft"))
        reap()
        forget_delays()
    assert statuses(run)["sft"] == "failed"
    assert run_status(run) == "failed"


def test_a_released_shard_is_free_at_once_and_counts_as_no_failure(run: Run) -> None:
    claimed = claim(run, "sft")
    jobs.release(claimed)
    again = claim(run, "sft")
    assert (again.shard_id, again.attempt, shard_of(again).failures) == (claimed.shard_id, 2, 0)
    assert Attempt.objects.get(number=1).outcome == "released"


def test_the_reaper_leaves_a_living_worker_alone(run: Run) -> None:
    claimed = claim(run, "sft")
    reap()
    jobs.record(claimed)
    assert shard_of(claimed).status == "running"


def test_the_reaper_opens_a_stage_whose_inputs_are_done(run: Run) -> None:
    finish_stage(run, "sft")
    stage_of(run, "sampling").shards.update(status="waiting")
    type(stage_of(run, "sampling")).objects.filter(pk=stage_of(run, "sampling").pk).update(status="waiting")
    reap()
    assert claim(run, "sampling") is not None


def test_the_reaper_mends_the_status_of_a_run(run: Run) -> None:
    finish_everything(run)
    Run.objects.filter(pk=run.pk).update(status="running")
    reap()
    assert run_status(run) == "done"


def test_the_reaper_stops_what_only_an_ended_run_wanted(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(status="failed")
    reap()
    assert set(statuses(run).values()) == {"stopped"}


def test_the_reaper_rings_as_often_as_workers_are_free_to_hear_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    rung = []
    monkeypatch.setattr("webapp.runs.queue._send", lambda stage, queue, times: rung.append((stage, queue, times)))

    def rung_by_reaper() -> list[tuple[int, str, int]]:
        rung.clear()
        with django_capture_on_commit_callbacks(execute=True):
            reap()
        return sorted(rung)

    assert rung_by_reaper() == []
    waiting = [(stage_of(run, key).pk, "gpu", 1) for key in ("sft", "reward_training")]
    jobs.note_worker(name="gpu@here", queue="gpu", slots=1, device="CPU")
    assert rung_by_reaper() == waiting[:1]
    jobs.note_worker(name="gpu@there", queue="gpu", slots=2, device="CPU")
    assert rung_by_reaper() == waiting
    claim(run, "sft")
    claim(run, "reward_training")
    assert rung_by_reaper() == []


def test_stopping_a_run_stops_its_stages_and_refuses_their_workers(run: Run) -> None:
    claimed = claim(run, "sft")
    services.stop_run(run=run)
    assert run.status == "stopped"
    assert set(statuses(run).values()) == {"stopped"}
    with pytest.raises(jobs.LeaseLost):
        jobs.record(claimed)
    assert Attempt.objects.get().outcome == "stopped"
    assert claim(run, "sft") is None


def test_a_resumed_run_keeps_what_was_finished_and_goes_on(run: Run) -> None:
    finish_stage(run, "sft")
    first = claim(run, "sampling")
    finish(first)
    services.stop_run(run=run)
    services.resume_run(run=run)
    assert statuses(run) == {"sft": "done", "reward_training": "ready", "sampling": "ready", "scoring": "waiting"}
    finish_everything(run)
    finish_everything(run)
    assert run_status(run) == "done"
    assert Attempt.objects.filter(shard=first.shard_id).count() == 1


def test_a_shared_stage_goes_on_while_another_run_wants_it(run: Run) -> None:
    other = run_of({"sft": ((), 1)}, researcher("other"))
    claimed = claim(run, "sft")
    services.stop_run(run=run)
    jobs.record(claimed)
    assert statuses(run) == {
        "sft": "running",
        "reward_training": "stopped",
        "sampling": "stopped",
        "scoring": "stopped",
    }
    services.stop_run(run=other)
    with pytest.raises(jobs.LeaseLost):
        jobs.record(claimed)


def test_a_failed_stage_is_tried_again_by_the_next_run_that_needs_it(run: Run) -> None:
    jobs.fail_shard(claim(run, "sft"), Failed(reason="user", message="wrong"))
    again = run_of({"sft": ((), 1)}, researcher("other"))
    assert stage_of(again, "sft").message == ""
    finish_stage(again, "sft")
    assert (run_status(again), run_status(run)) == ("done", "failed")
    services.resume_run(run=run)
    finish_everything(run)
    finish_everything(run)
    assert run_status(run) == "done"


@pytest.mark.django_db(transaction=True)
def test_a_stop_and_a_finish_at_the_same_time_leave_one_clear_state() -> None:
    for seed in range(6):
        run = run_of(DIAMOND, researcher(f"r{seed}"), seed=seed)
        claimed = claim(run, "sft")

        def act(index: int, run: Run = run, claimed: Claim = claimed) -> str:
            try:
                services.stop_run(run=run) if index else finish(claimed)
            except jobs.LeaseLost:
                return "lost"
            return "ok"

        in_threads(2, act)
        assert statuses(run)["sft"] in {"done", "stopped"}
        assert statuses(run)["sampling"] == "stopped"
        assert run_status(run) == "stopped"
        assert not Shard.objects.filter(stage__runs=run, status__in=["running", "ready", "waiting"]).exists()
