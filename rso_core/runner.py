"""The process that does the work: `python -m rso_core.runner`.

Reads a `StageSpec` a line from standard input, executes it, and writes `Event`s a line to standard output. Models
stay loaded between the shards of a stage. Leaves when standard input closes, even in the middle of work: whoever
asked has gone, and somebody else will be given the work. Whatever libraries print goes to standard error.
"""

import errno
import gc
import os
import queue
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rso_core.artifacts import ArtifactStore
from rso_core.errors import OutOfMemoryError, TransientError, UserError
from rso_core.memory import ADVICE, is_out_of_memory
from rso_core.protocol import Event, Failure, StageSpec

_DISK_FULL = ("no space left on device", "disk quota exceeded")


def main() -> None:
    """Serve specs until standard input closes."""
    say = _writer(_take_stdout())
    store = ArtifactStore(os.environ["RSO_ARTIFACT_URL"], _cache())
    specs: queue.SimpleQueue[StageSpec | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin, specs), daemon=True).start()
    serve(iter(specs.get, None), store, say)


def _cache() -> Path | None:
    folder = os.environ.get("RSO_ARTIFACT_CACHE")
    return Path(folder) if folder else None


def _take_stdout() -> IO[str]:
    """Return the real standard output, and send what anything else prints there to standard error."""
    sys.stdout.flush()
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # also what C code writes
    sys.stdout = sys.stderr
    return real


def _writer(output: IO[str]) -> Callable[[Event], None]:
    lock = threading.Lock()

    def say(event: Event) -> None:
        with lock:
            output.write(event.model_dump_json() + "\n")
            output.flush()

    return say


def _read(lines: IO[str], specs: "queue.SimpleQueue[StageSpec | None]") -> None:
    """Hand over specs; when there will be no more, end the process at once."""
    try:
        for line in lines:
            if line.strip():
                specs.put(StageSpec.model_validate_json(line))
    except ValueError:
        traceback.print_exc()
        os._exit(2)
    os._exit(0)


def serve(specs: Iterator[StageSpec | None], store: ArtifactStore, say: Callable[[Event], None]) -> None:
    """Answer each spec by exactly one Result or Failure."""
    from rso_core.interactive import ANSWER, MODELS, answer
    from rso_core.stages import ModelCache, execute

    models, stage = ModelCache(), ""
    for spec in specs:
        if spec is None:
            return
        if spec.fingerprint != stage:
            models, stage = ModelCache(MODELS if spec.kind == ANSWER else ModelCache.size), spec.fingerprint
            _free_memory()  # the next stage needs it
        try:
            say((answer if spec.kind == ANSWER else execute)(spec, store, say, models))
        except Exception as error:  # noqa: BLE001 - every failure is an answer
            say(failure_of(error, store.root))


def _free_memory() -> None:
    """Give back what the models of the stage before held, on the device too. Light stages never loaded torch."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def failure_of(error: BaseException, folder: Path) -> Failure:
    """Return how an error is told to the supervisor; `folder` is where artifacts and checkpoints are written."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, OutOfMemoryError):
        return Failure(reason="out_of_memory", message=str(error))
    if isinstance(error, UserError):
        return Failure(reason="user", message=str(error))
    if is_out_of_memory(error):
        message = f"memory ran out: {_first_line(error)}. {ADVICE}"
        return Failure(reason="out_of_memory", message=message, traceback=trace)
    if is_disk_full(error):
        return Failure(reason="transient", message=_disk_full_message(error, folder), traceback=trace)
    if isinstance(error, TransientError | OSError):
        return Failure(reason="transient", message=_first_line(error), traceback=trace)
    return Failure(reason="internal", message=f"{type(error).__name__}: {_first_line(error)}", traceback=trace)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means that the disk is full; libraries hide it in errors of their own."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    return any(words in str(error).lower() for words in _DISK_FULL)


def _disk_full_message(error: BaseException, folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    return (
        f"no space left on the disk of {folder} ({free} bytes are free): {_first_line(error)}. Free some space "
        f"there, or move the artifact store to a larger disk (ARTIFACT_URL); the work is tried again, then resume the run"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


if __name__ == "__main__":
    main()
