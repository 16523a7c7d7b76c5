"""Several processes that train one model: each computes the gradient of a share of every batch; the shares are added up.

RSO_TRAINING_PROCESSES (default 1) says how many. The process that has the work starts the others on this machine and
tells them the same stage; each reads the same data in the same order, takes its share (`micro_batches.shares`) and
makes the same step with the sum of all gradients, so weights stay equal without being sent. Only the first process
reports, writes checkpoints and goes on with what comes after the training. What differs from one process is the order
in which float32 numbers are added.

On CPUs through gloo; on GPUs through nccl, one each (not tested on a GPU). torch.distributed alone does it: one sum
a step is all that is needed. Why not accelerate or DistributedDataParallel: docs/decisions.md.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from rso_core.artifacts import ArtifactStore
from rso_core.errors import OutOfMemoryError, TransientError, UserError
from rso_core.protocol import Failure, StageSpec

if TYPE_CHECKING:
    from rso_core.stages import Job

_SETTING = "RSO_TRAINING_PROCESSES"
T = TypeVar("T")


class TrainingFinished(Exception):  # noqa: N818 - not an error: the first process alone goes on
    """A process that helps has done its part."""


def rank() -> int:
    """Return the number of this process among those that train together; 0 reports and writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def add_up(gradients: Sequence[torch.Tensor]) -> None:
    """Replace each gradient by its sum over all processes; all must name the same weights in the same order."""
    if count() > 1:
        for gradient in gradients:
            distributed.all_reduce(gradient)


def gathered(value: T) -> list[T]:
    """Return a small value of every process, by rank; every process waits here for the others."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    distributed.all_gather_object(found, value)
    return found


def total(values: Mapping[str, float]) -> dict[str, float]:
    """Return the sums over all processes, by name; one that knows a name nobody else knows counts alone."""
    sums: dict[str, float] = {}
    for part in gathered(dict(values)):
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def wanted() -> int:
    """Return how many processes the environment asks for. Raises UserError when it is no number."""
    text = os.environ.get(_SETTING, "") or "1"
    if not text.isdigit() or int(text) < 1:
        message = f"{_SETTING} must be a number of processes, 1 or more, got {text!r}; correct or unset it"
        raise UserError(message)
    return int(text)


@contextlib.contextmanager
def team(job: "Job") -> Iterator[None]:
    """Let other processes take part in the training that runs in the block. They end with it, however it ends."""
    size = wanted()
    if size == 1:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        others = [_started(job, number, size, folder) for number in range(1, size)]
        try:
            _join(0, size, folder)
            yield
        except RuntimeError as error:
            raise _reason(others) or error from error
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
            for process in others:
                process.kill()
                process.communicate()


def _started(job: "Job", number: int, size: int, folder: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "rso_core.processes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    asked = {
        "spec": job.spec.model_dump(mode="json"), "url": job.store.url, "root": str(job.store.root), "rank": number,
        "size": size, "folder": folder,
    }  # fmt: skip
    _pipe(process.stdin).write(json.dumps(asked) + "\n")
    _pipe(process.stdin).flush()
    return process


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        message = "a process that helps needs pipes"
        raise ValueError(message)
    return pipe


def _reason(others: Sequence["subprocess.Popen[str]"]) -> Exception | None:
    """Return why a process that helps ended: without it the others only know that the connection is gone."""
    for process in others:
        try:
            answer = process.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            continue
        if process.returncode == 0:
            continue
        failure = Failure.model_validate_json(answer) if answer.strip() else None
        if failure is None or failure.reason in {"transient", "internal"}:
            told = failure.message if failure else f"exit code {process.returncode}"
            return TransientError(f"a process that helped in the training ended: {told}")
        return (OutOfMemoryError if failure.reason == "out_of_memory" else UserError)(failure.message)
    return None


def _join(number: int, size: int, folder: str) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(number)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=size
    )


def main() -> None:
    """Help in one training, then leave; leave at once when whoever started this is gone."""
    from rso_core.models import set_threads_and_seed
    from rso_core.runner import failure_of
    from rso_core.stages import Job, ModelCache, work_of

    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with, args=(sys.stdin,), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = StageSpec.model_validate(asked["spec"])
    store = ArtifactStore(asked["url"], Path(asked["root"]))
    set_threads_and_seed(int(spec.config.get("seed", 0)))
    _join(asked["rank"], asked["size"], asked["folder"])
    with tempfile.TemporaryDirectory() as staging:
        try:
            work_of(spec.kind)(Job(spec, store, Path(staging), lambda _event: None, ModelCache()))
        except TrainingFinished:
            return
        except Exception as error:  # noqa: BLE001 - every failure is an answer
            answers.write(failure_of(error, store.root).model_dump_json() + "\n")
            answers.flush()
            os._exit(1)


def _leave_with(leader: IO[str]) -> None:
    leader.read()
    os._exit(1)


if __name__ == "__main__":
    main()
