"""Answers under supervision: a real runner process with a toy model, and one that does what a script says."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from rso_core.interactive import Asked
from rso_core.models import load
from rso_core.protocol import Partial, StageSpec
from tests.rso_core.chain import import_model
from tests.rso_core.test_interactive import expected
from tests.webapp.graphs import DIAMOND, finish, run_of, stage_of
from tests.webapp.playground.asked import asked, claimed
from webapp.accounts.models import User
from webapp.playground import answering, asking, limits, tidying
from webapp.playground.answering import AnswerClaim
from webapp.playground.asking import Sampling
from webapp.playground.models import Generation, Question
from webapp.playground.policies import chosen
from webapp.runs.artifacts import store
from webapp.runs.models import RegisteredModel
from workers import tasks
from workers.answers import answer
from workers.app import app
from workers.runner_process import WarmRunner

SCRIPTED = (sys.executable, "-m", "tests.workers.scripted_runner")


@pytest.fixture
def runner(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmRunner]:
    """A runner process of the product."""
    settings.RUNNER_THREADS = 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with WarmRunner() as warm:
        yield warm


@pytest.fixture
def scripted() -> Iterator[WarmRunner]:
    with WarmRunner(SCRIPTED) as warm:
        yield warm


def scripting(claim: AnswerClaim, *script: dict[str, Any]) -> AnswerClaim:
    """Return a claim whose runner does what the script says."""
    spec = StageSpec(kind="answer", fingerprint="answer", config={"script": list(script)}, inputs={})
    return AnswerClaim(claim.generation_id, claim.attempt, spec)


def never() -> bool:
    return False


@pytest.mark.django_db
def test_what_is_streamed_is_what_sampling_gives_and_one_failure_leaves_the_others_alone(
    researcher: User, runner: WarmRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [import_model(store(), "causal", seed=seed) for seed in (0, 1)]
    for name, digest in (("one", digests[0]), ("gone", "f" * 64), ("two", digests[1])):
        RegisteredModel.objects.create(owner=researcher, name=name, family="causal", digest=digest)
    keys = [f"model:{model.pk}" for model in RegisteredModel.objects.order_by("pk")]
    told: list[Partial] = []
    tell = answering.tell
    monkeypatch.setattr(answering, "tell", lambda claim, said: (told.append(said), tell(claim, said))[1])
    messages: Any = [{"role": "user", "content": "the cat sat on the mat"}]
    sampling = Sampling(temperature=1.0, top_k=20, max_tokens=40, seed=7)
    question = asking.ask(
        researcher, messages, chosen(keys, researcher, task="dialogue"), is_blind=False, sampling=sampling
    )
    while (claim := answering.claim(worker="gpu@here", has_gpu_queue=True)) is not None:
        answer(claim, runner, never)
    first, gone, second = question.generations.order_by("index")
    assert gone.status == "failed"
    assert "is not in the store" in gone.message
    for generation, digest in zip((first, second), digests, strict=True):
        wanted = Asked.model_validate(generation.asked)
        tokens, text = expected(load(store().path(digest) / "model", dtype="float32"), wanted)
        assert (generation.status, generation.text, generation.tokens) == ("done", text, len(tokens))
    assert all(first.text.startswith(one.text) or second.text.startswith(one.text) for one in told if one is not None)


@pytest.mark.django_db(transaction=True)
def test_a_cancelled_answer_ends_its_runner_within_seconds(researcher: User, scripted: WarmRunner) -> None:
    question = asked(researcher, "a")
    claim = scripting(claimed(), {"sleep": 60}, {"result": True})

    def cancel() -> None:
        time.sleep(0.5)
        asking.cancel(question.pk, owner=researcher)
        connection.close()

    canceller = threading.Thread(target=cancel)
    began = time.monotonic()
    canceller.start()
    answer(claim, scripted, never)
    canceller.join()
    assert time.monotonic() - began < 15
    assert scripted._runner is not None
    assert scripted._runner.is_gone
    assert Generation.objects.get().status == "stopped"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"fail": "user"}, "as the script says"),
        ({"kill": int(signal.SIGKILL)}, "its process was killed"),
        ({"exit": 3}, "left with exit code 3"),
    ],
)
def test_a_runner_that_gives_no_answer_leaves_a_message(
    researcher: User, scripted: WarmRunner, step: dict[str, Any], words: str
) -> None:
    asked(researcher, "a")
    answer(scripting(claimed(), step), scripted, never)
    generation = Generation.objects.get()
    assert generation.status == "failed"
    assert words in generation.message


@pytest.mark.django_db
def test_a_worker_that_is_leaving_gives_the_answer_back(researcher: User, scripted: WarmRunner) -> None:
    asked(researcher, "a")
    answer(scripting(claimed(), {"sleep": 60}), scripted, lambda: True)
    assert Generation.objects.get().status == "waiting"


# Whom a worker serves first


@pytest.fixture
def every_queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tasks, "_LINGER_SECONDS", 0.1)
    monkeypatch.setattr(tasks, "_LINGER_AFTER_ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(tasks, "_LOOK_SECONDS", 0.02)
    before = dict(app.amqp.queues.consume_from)
    app.amqp.queues.select(["gpu", "cpu", "interactive"])
    yield
    app.amqp.queues.select(list(before))


@pytest.mark.django_db
def test_a_worker_answers_between_shards_before_it_takes_the_next_one(researcher: User, every_queue: None) -> None:
    run = run_of(DIAMOND, researcher)
    taken: list[str] = []
    for claim in tasks._claims(stage_of(run, "sft").pk, worker="gpu@here"):
        if isinstance(claim, AnswerClaim):
            answering.finish(claim, {"text": "x", "tokens": 1, "truncated": False, "prompt_truncated": False})
            taken.append("answer")
            continue
        if not taken:
            asked(researcher, "a", "b")
        taken.append(claim.spec.kind)
        finish(claim)
    assert taken[:4] == ["sft", "answer", "answer", taken[3]]
    assert taken[3] != "answer"
    assert len(taken) > 4


@pytest.mark.django_db
def test_a_ring_in_vain_starts_nothing(researcher: User, every_queue: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(researcher, "a")
    assert tidying.is_waited_for()
    Question.objects.all().delete()
    monkeypatch.setattr(tasks, "_do", lambda _: pytest.fail("there is nothing to do"))
    tasks.answer_questions(None)


@pytest.mark.django_db
def test_a_worker_that_does_not_serve_the_playground_leaves_it_alone(researcher: User, every_queue: None) -> None:
    app.amqp.queues.select(["gpu", "cpu"])
    asked(researcher, "a")
    assert list(tasks._claims(None, worker="gpu@here", wait_seconds=0.05)) == []
    assert limits.LEASE.total_seconds() > 5
