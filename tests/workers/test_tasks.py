from collections.abc import Iterator

import pytest

from tests.webapp.graphs import DIAMOND, finish, researcher, run_of, run_status, stage_of
from webapp.runs.models import Stage
from workers import tasks
from workers.app import app

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def both_queues() -> Iterator[None]:
    before = dict(app.amqp.queues.consume_from)
    app.amqp.queues.select(["gpu", "cpu"])
    yield
    app.amqp.queues.select(list(before))


@pytest.fixture(autouse=True)
def a_short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_LINGER_SECONDS", 0.2)
    monkeypatch.setattr(tasks, "_LOOK_SECONDS", 0.02)


def test_one_ring_leads_a_worker_through_all_that_becomes_due() -> None:
    run = run_of(DIAMOND, researcher())
    taken = []
    for claim in tasks._claims(stage_of(run, "sft").pk, worker="worker"):
        taken.append((claim.spec.kind, claim.spec.shard_index))
        finish(claim)
    assert sorted(taken) == sorted((key, index) for key, (_, shards) in DIAMOND.items() for index in range(shards))
    assert taken[0] == ("sft", 0)
    assert run_status(run) == "done"


def test_a_ring_for_work_that_is_taken_ends_at_once_and_takes_nothing_else() -> None:
    run = run_of(DIAMOND, researcher())
    Stage.objects.filter(pk=stage_of(run, "sft").pk).update(status="stopped")
    assert list(tasks._claims(stage_of(run, "sft").pk, worker="worker")) == []
    assert stage_of(run, "reward_training").shards.get().status == "ready"


def test_a_worker_takes_nothing_of_queues_it_does_not_serve() -> None:
    app.amqp.queues.select(["cpu"])
    run = run_of(DIAMOND, researcher())
    first = next(tasks._claims(stage_of(run, "sft").pk, worker="worker"))
    assert first.spec.kind == "sft"  # rung for by name; what follows is looked up by queue
    finish(first)
    assert tasks.jobs.due_stage(["cpu"]) is None
    assert tasks.jobs.due_stage(["gpu"]) is not None


def test_a_worker_that_is_leaving_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "is_leaving", lambda: True)
    run = run_of(DIAMOND, researcher())
    assert list(tasks._claims(stage_of(run, "sft").pk, worker="worker")) == []
