import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import torch

from rso_core.errors import OutOfMemoryError, TransientError, UserError
from rso_core.protocol import EVENT, Event, Failure, Metrics, Progress, Result, StageSpec
from rso_core.runner import failure_of
from tests.rso_core.chain import Chain, toy_config

SECONDS = 60.0


class Runner:
    """A runner process as a supervisor starts it."""

    def __init__(self, chain: Chain, program: str = "from rso_core.runner import main; main()") -> None:
        environment = {
            **os.environ,
            "RSO_ARTIFACT_URL": str(chain.store.root),
            "RSO_ARTIFACT_CACHE": "",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def submit(self, spec: StageSpec) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(spec.model_dump_json() + "\n")
        self.process.stdin.flush()

    def events(self) -> Iterator[Event]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield EVENT.validate_json(line)

    def answer(self) -> Result | Failure:
        return next(event for event in self.events() if isinstance(event, Result | Failure))

    def leave(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Runners and this process compute with one thread: equal bytes are promised for equal thread counts only."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSO_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("runner"))


@pytest.fixture(scope="module")
def warm(chain: Chain) -> Iterator[Runner]:
    """A runner that several tests give work to, as the shards of a stage do: starting one takes seconds."""
    with Runner(chain) as runner:
        yield runner


def test_a_runner_serves_stage_after_stage(chain: Chain, warm: Runner) -> None:
    plan = chain.run(toy_config(), until="reward_training")
    for key in ("sft", "reward_training"):
        warm.submit(chain.spec(plan, plan.stage(key)))
        result = warm.answer()
        assert isinstance(result, Result), result
        assert result.digest == chain.digest(plan, key)
        assert result.summary == chain.summary(plan, key)


def test_progress_and_curves_come_before_the_result(chain: Chain, warm: Runner) -> None:
    plan = chain.plan(toy_config())
    chain.store.discard_checkpoints(plan.stage("sft").fingerprint)
    warm.submit(chain.spec(plan, plan.stage("sft")))
    events = []
    for event in warm.events():
        events.append(event)
        if isinstance(event, Result | Failure):
            break

    assert isinstance(events[-1], Result)
    assert [event.step for event in events if isinstance(event, Metrics)] == [1, 2, 3, 4]
    assert [event.done for event in events if isinstance(event, Progress)] == [0, 1, 2, 3, 4]


def test_a_failure_is_answered_and_the_next_work_is_done(chain: Chain, warm: Runner) -> None:
    plan, wrong = chain.plan(toy_config()), chain.plan(toy_config(data={"max_response_tokens": 4}))
    warm.submit(chain.spec(wrong, wrong.stage("sft")))
    failure = warm.answer()
    warm.submit(chain.spec(plan, plan.stage("sft")))

    assert isinstance(failure, Failure)
    assert failure.reason == "user"
    assert "raise data.max_response_tokens" in failure.message
    assert isinstance(warm.answer(), Result)


def test_what_libraries_print_does_not_come_between_the_events(chain: Chain) -> None:
    program = (
        "import os, rso_core.stages as stages; from rso_core.runner import main; execute = stages.execute\n"
        "def loud(*arguments):\n"
        "    print('chatter'); os.system('echo more chatter'); return execute(*arguments)\n"
        "stages.execute = loud; main()"
    )
    plan = chain.plan(toy_config())
    with Runner(chain, program) as runner:
        runner.submit(chain.spec(plan, plan.stage("sft")))
        assert isinstance(runner.answer(), Result)
        runner.leave()
        assert runner.process.stderr is not None
        assert "chatter\nmore chatter\n" in runner.process.stderr.read()


def test_a_runner_whose_supervisor_has_gone_leaves_in_the_middle_of_its_work(chain: Chain) -> None:
    endless = {"max_steps": 0, "epochs": 1000.0, "batch_size": 2}
    plan = chain.plan(toy_config(sft=endless))
    with Runner(chain) as runner:
        runner.submit(chain.spec(plan, plan.stage("sft")))
        next(event for event in runner.events() if isinstance(event, Metrics))
        started = time.monotonic()
        assert runner.leave() == 0
        assert time.monotonic() - started < 10


def test_a_killed_runner_is_followed_by_one_that_goes_on(chain: Chain) -> None:
    plan = chain.plan(toy_config(sft={"max_steps": 40, "epochs": 100.0}))
    with Runner(chain) as runner:
        runner.submit(chain.spec(plan, plan.stage("sft")))
        next(event for event in runner.events() if isinstance(event, Metrics) and event.step == 9)
        runner.process.send_signal(signal.SIGKILL)
    with Runner(chain) as runner:
        runner.submit(chain.spec(plan, plan.stage("sft")))
        result = runner.answer()
    chain.store.discard_checkpoints(plan.stage("sft").fingerprint)

    assert isinstance(result, Result)
    assert chain.run_stage(plan, "sft")[0].digest == result.digest


def test_a_line_that_is_no_spec_ends_the_runner_with_a_reason(chain: Chain) -> None:
    with Runner(chain) as runner:
        assert runner.process.stdin is not None
        runner.process.stdin.write(json.dumps({"kind": "sft"}) + "\n")
        runner.process.stdin.flush()
        assert runner.process.wait(SECONDS) == 2
        assert runner.process.stderr is not None
        assert "validation errors for StageSpec" in runner.process.stderr.read()


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (UserError("raise data.x"), "user", "raise data.x"),
        (OutOfMemoryError("lower y"), "out_of_memory", "lower y"),
        (MemoryError(), "out_of_memory", "micro_batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory", "sampling.batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory", "lora"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", "reward.max_length"),
        (OSError(errno.ENOSPC, "No space left on device"), "transient", "no space left on the disk of"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "transient", "Free some space"),
        (TransientError("the store did not answer"), "transient", "the store did not answer"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "transient", "Connection reset"),
        (RuntimeError("sampling lost prompts: 4 in, 3 out"), "internal", "RuntimeError: sampling lost prompts"),
        (KeyError("chosen"), "internal", "KeyError"),
    ],
)
def test_every_error_has_a_reason_and_advice(tmp_path: Path, error: Exception, reason: str, words: str) -> None:
    failure = failure_of(error, tmp_path)

    assert failure.reason == reason
    assert words in failure.message
    assert bool(failure.traceback) == (type(error) not in {UserError, OutOfMemoryError})
