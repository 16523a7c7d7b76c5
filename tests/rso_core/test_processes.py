import subprocess
import sys
from pathlib import Path

import pytest

from rso_core import processes
from rso_core.errors import OutOfMemoryError, TransientError, UserError
from rso_core.protocol import Event, Failure, Log, Metrics
from rso_core.stages import execute
from tests.rso_core.chain import Chain, toy_config

KEYS = ("sft", "reward_training", "policy_fitting")
TOLERANCE = 1e-4  # relative, of every value of the curves, in float32


class Killed(Exception):  # noqa: N818 - what happens to the process, not an error of it
    pass


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RSO_TRAINING_PROCESSES", text)

    with pytest.raises(UserError, match=f"RSO_TRAINING_PROCESSES must be a number of processes.*{text}"):
        processes.wanted()


def test_a_process_alone_is_the_sum_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RSO_TRAINING_PROCESSES", raising=False)

    assert (processes.wanted(), processes.rank(), processes.count()) == (1, 0, 1)
    assert processes.gathered("x") == ["x"]
    assert processes.total({"loss": 2.0}) == {"loss": 2.0}


@pytest.mark.parametrize(
    ("reason", "error"), [("user", UserError), ("out_of_memory", OutOfMemoryError), ("internal", TransientError)]
)
def test_why_a_process_that_helped_ended_is_told(reason: str, error: type[Exception]) -> None:
    told = Failure(reason=reason, message="lower the rate").model_dump_json()  # type: ignore[arg-type]
    command = [sys.executable, "-c", f"print({told!r}); raise SystemExit(1)"]
    helper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    found = processes._reason([helper])
    assert type(found) is error
    assert "lower the rate" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_two_processes_train_along_the_curve_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    chain = Chain(tmp_path)
    plan = chain.run(toy_config(), until=key)
    stage = plan.stage(key)
    curves: list[list[Metrics]] = []
    results = []
    for count in ("1", "2", "2"):
        chain.store.discard_checkpoints(stage.fingerprint)
        monkeypatch.setenv("RSO_TRAINING_PROCESSES", count)
        events: list[Event] = []
        results.append(execute(chain.spec(plan, stage), chain.store, events.append, chain.cache))
        curves.append([event for event in events if isinstance(event, Metrics)])

    assert [point.step for point in curves[1]] == [point.step for point in curves[0]]
    for one, two in zip(curves[0], curves[1], strict=True):
        assert two.values == pytest.approx(one.values, rel=TOLERANCE, abs=TOLERANCE)
    assert results[1].digest == results[2].digest  # and again to the same bytes
    assert results[1].summary["tokens"] == results[0].summary["tokens"]


@pytest.mark.slow
def test_a_training_of_two_processes_that_is_killed_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSO_TRAINING_PROCESSES", "2")
    chain = Chain(tmp_path)
    plan = chain.run(toy_config(sft={**toy_config().sft.model_dump(), "dropout": 0.1}), until="sft")
    stage = plan.stage("sft")
    expected = chain.digests[stage.fingerprint]
    chain.store.discard_checkpoints(stage.fingerprint)

    def die(event: Event) -> None:
        if isinstance(event, Metrics) and event.step == 3:
            raise Killed

    with pytest.raises(Killed):
        execute(chain.spec(plan, stage), chain.store, die, chain.cache)
    events: list[Event] = []
    assert execute(chain.spec(plan, stage), chain.store, events.append, chain.cache).digest == expected
    assert any("resumed after step 2" in event.message for event in events if isinstance(event, Log))
