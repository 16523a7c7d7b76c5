"""A training of the product that goes on by one step whenever it is told to: its own loop, optimizer and reports."""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What makes a training one long pass over the same batch: (rows of the batch) → fields of a TrainingConfig.
_MOST = 1_000_000
Train = Callable[[Path, Callable[[Any], None]], object]  # (folder of checkpoints, where events go)


def endless(batch_size: int) -> dict[str, int]:
    """Return fields of a TrainingConfig for 100 steps, each over the same rows, without checkpoints between."""
    return {"batch_size": batch_size, "epochs": 100, "checkpoint_every": _MOST}


class TrainingSteps:
    """Runs `train` in a thread that waits before its first step and after every step."""

    def __init__(self, train: Train) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self.loss: float = float("nan")
        self._error: BaseException | None = None
        threading.Thread(target=self._run, args=(train,), daemon=True).start()

    def _run(self, train: Train) -> None:
        self._go.acquire()
        with tempfile.TemporaryDirectory() as folder:
            try:
                train(Path(folder), self._hear)
            except BaseException as error:  # noqa: BLE001 - told to whoever waits
                self._error = error
                self._done.release()

    def _hear(self, event: Any) -> None:
        self.loss = getattr(event, "values", {}).get("loss", self.loss)
        if getattr(event, "done", 0) > 0:  # progress after a step
            self._done.release()
            self._go.acquire()

    def step(self) -> float:
        """Let the training do one step and return its loss. Raises what the training raised."""
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self.loss
