"""Execute one stage, or one shard of it: read input artifacts, do the work, commit the output artifact.

One function per kind, in `stages_data` (imports, lengths), `stages_training` (SFT, reward model, fitting),
`stages_sampling` (candidates, rewards, selection), `stages_pairs` and `stages_evaluation`. The functions take a `Job` and return the summary;
what they write is a pure function of configuration, inputs and thread count: artifacts hold no timings.
"""

import importlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rso_core.artifacts import ROWS, ArtifactStore, Row, iterate_rows, write_rows
from rso_core.plan import CODE_VERSIONS
from rso_core.protocol import Event, Log, Progress, Result, StageSpec
from rso_core.run_data import choose_prompts, is_in_split
from rso_core.vocabulary import Split

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

Emit = Callable[[Event], None]

REPORT_SECONDS = 0.5
_TRAININGS = frozenset({"sft", "reward_training", "policy_fitting"})
_MODULES = {
    "stages_data": ("import_dataset", "import_model", "length_profile"),
    "stages_training": ("sft", "reward_training", "reference_log_probs", "policy_fitting", "checkpoint_selection"),
    "stages_sampling": ("sampling", "scoring", "rejection_sampling"),
    "stages_pairs": ("preference_pairs",),
    "stages_judging": ("auto_sxs", "judge_accuracy"),
    "stages_checkpoints": ("checkpoint_figures",),
    "stages_objectives": ("combined_rewards",),
    "stages_targets": ("candidate_targets",),
    "stages_evaluation": ("generation", "responses", "win_rate", "report"),
}


@dataclass
class ModelCache:
    """Keeps the last few loaded models, so that the shards of a stage share one load."""

    size: int = 2
    _models: dict[tuple[str, str, str], "LanguageModel"] = field(default_factory=dict)

    def load(self, folder: Path, digest: str, dtype: str) -> "LanguageModel":
        """Return the model in `folder` in evaluation mode; callers must not change its weights."""
        from rso_core.models import load

        key = (digest, str(folder), dtype)
        model = self._models.pop(key, None)
        if model is None:
            while len(self._models) >= self.size:
                self._models.pop(next(iter(self._models)))
            model = load(folder, dtype=dtype)
        self._models[key] = model  # the last used is the last to go
        return model

    def forget(self) -> bool:
        """Drop every model and return whether there was one."""
        there = bool(self._models)
        self._models.clear()
        return there


@dataclass
class Job:
    """Everything a stage function may touch."""

    spec: StageSpec
    store: ArtifactStore
    staging: Path
    emit: Emit
    models: ModelCache

    @property
    def config(self) -> dict[str, Any]:
        """Return the stage's configuration."""
        return self.spec.config

    @cached_property
    def checkpoints(self) -> Path:
        """Return the folder of the stage's resumable checkpoints."""
        return self.store.checkpoints(self.spec.fingerprint)

    def files(self, name: str, file: str = ROWS) -> list[Path]:
        """Return the row files of an input, all parts in order."""
        return self.store.files(self.spec.inputs[name], file)

    def shard_file(self, name: str) -> Path:
        """Return the row file of the part of a sharded input that belongs to this shard."""
        return self.files(name)[self.spec.shard_index]

    def model_folder(self, name: str) -> Path:
        """Return the folder of an input model."""
        return self.store.path(self.spec.inputs[name]) / "model"

    def model(self, name: str, *, dtype: str | None = None) -> "LanguageModel":
        """Return an input model, loaded in evaluation mode and kept for the next shard."""
        return self.models.load(self.model_folder(name), self.spec.inputs[name], dtype or self.config["dtype"])

    def write(self, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> int:
        """Write the output rows and return how many."""
        return write_rows(self.staging / ROWS, rows, schema, batch_size=256)

    def log(self, message: str, *, warning: bool = False) -> None:
        """Tell people something."""
        self.emit(Log(message=message, level="warning" if warning else "info"))


class Counter:
    """Reports how many units of a known total are done, at most twice a second, with tokens a second."""

    def __init__(self, job: Job, total: int, unit: str) -> None:
        self._emit, self._total, self._unit = job.emit, total, unit
        self._done = self._tokens = 0
        self._start = time.monotonic()
        self._last = 0.0
        self._report()

    def add(self, units: int = 1, tokens: int = 0) -> None:
        """Count finished units and the tokens they took."""
        self._done += units
        self._tokens += tokens
        if self._done >= self._total or time.monotonic() - self._last > REPORT_SECONDS:
            self._report()

    def _report(self) -> None:
        self._last = time.monotonic()
        rate = self._tokens / max(self._last - self._start, 1e-9) if self._tokens else None
        self._emit(Progress(done=self._done, total=self._total, unit=self._unit, tokens_per_second=rate))


def execute(spec: StageSpec, store: ArtifactStore, emit: Emit, models: ModelCache | None = None) -> Result:
    """Do the work of `spec` and return the digest of its artifact with a summary.

    Raises UserError, OutOfMemoryError or TransientError (see `rso_core.errors`); nothing is left behind. What a killed
    process leaves, the next attempt at the same work removes.
    """
    from rso_core.models import set_threads_and_seed

    if spec.kind not in CODE_VERSIONS:
        message = f"`kind` must be one of {', '.join(CODE_VERSIONS)}, got {spec.kind!r}"
        raise ValueError(message)
    if spec.kind not in {"rejection_sampling", "combined_rewards", "report", "import_dataset"}:
        set_threads_and_seed(int(spec.config.get("seed", 0)))
        _silence_progress_bars()
    staging = store.staging(f"{spec.fingerprint}-{spec.shard_index}", spec.attempt)
    job = Job(spec, store, staging, emit, models or ModelCache())
    try:
        with _others(job):
            summary = work_of(spec.kind)(job)
        digest = store.commit(staging, kind=spec.kind)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Result(digest=digest, summary=summary)


def _silence_progress_bars() -> None:
    """Keep the bars of transformers out of logs; progress is told by events."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _others(job: Job) -> AbstractContextManager[None]:
    """Return a context in which other processes help, if the work is a training and there are to be any."""
    if job.spec.kind not in _TRAININGS:
        return nullcontext()
    from rso_core.processes import team

    return team(job)


def work_of(kind: str) -> Callable[[Job], dict[str, Any]]:
    """Return the function that does a kind of stage."""
    module = next(name for name, kinds in _MODULES.items() if kind in kinds)
    function: Callable[[Job], dict[str, Any]] = getattr(importlib.import_module(f"rso_core.{module}"), kind)
    return function


def iterate_split(files: Sequence[Path], split: Split, settings: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of a dataset whose conversation is in `split` (and in the part of it that `settings` names).

    One batch is in memory at a time.
    """
    return (row for row in iterate_rows(files) if is_in_split(row["root"], split, settings))


def rows_of_split(files: Sequence[Path], split: Split, settings: Mapping[str, Any]) -> list[Row]:
    """Return the rows that `iterate_split` yields."""
    return list(iterate_split(files, split, settings))


def prompts_of_split(
    files: Sequence[Path], split: Split, settings: Mapping[str, Any], *, limit: int, seed: int
) -> list[Row]:
    """Return one row for each distinct prompt of a split: `limit` of them (0: all), drawn and ordered by seed."""
    first: dict[str, Row] = {}
    for row in iterate_split(files, split, settings):
        first.setdefault(row["prompt_id"], row)
    return [first[prompt] for prompt in choose_prompts(first, limit, seed)]
