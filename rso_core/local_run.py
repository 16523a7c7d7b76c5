"""Execute the plan of a recipe in this process, without Django or Celery: the same stages, the same artifacts.

What has finished is recorded in the store by fingerprint, so a run that is started again goes on where it ended,
and two recipes share what they have in common. A training that was interrupted resumes from its checkpoint.
"""

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rso_core.artifacts import ArtifactStore
from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.plan import Plan, PlannedStage, fingerprint_of
from rso_core.planner import build_plan
from rso_core.protocol import StageSpec, add_summaries
from rso_core.references import References
from rso_core.stages import ModelCache, execute
from rso_core.terminal import Line, clock


@dataclass(frozen=True)
class Finished:
    """A finished piece of work: its artifact, its summary, and how long it took."""

    digest: str
    summary: dict[str, Any]
    seconds: float = 0.0
    tokens_per_second: float | None = None
    items: str = ""


class Ledger:
    """Which pieces of work have finished: one small file each in `finished/` under the store's root."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self._folder = store.root / "finished"

    def get(self, name: str) -> Finished | None:
        """Return what was recorded under a name, if its artifact is still in the store."""
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        found = Finished(**json.loads(path.read_text(encoding="utf-8")))
        return found if self.store.exists(found.digest) else None

    def put(self, name: str, finished: Finished) -> None:
        """Record a finished piece of work; a kill in the middle records nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{name}.partial"
        partial.write_text(json.dumps(asdict(finished), sort_keys=True), encoding="utf-8")
        partial.rename(self._folder / f"{name}.json")

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Wait until no other process works on a piece of work, and hold it: the workers of a study share a store."""
        folder = self.store.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@contextmanager
def exclusive(store: ArtifactStore) -> Iterator[None]:
    """Hold the store for this process. Raises UserError when another local run holds it."""
    store.root.mkdir(parents=True, exist_ok=True)
    with (store.root / "local-run.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another run is working in the store {store.root}; wait until it has ended, or give --store another folder"
            raise UserError(message) from error
        yield  # the system lets the lock go when the process ends, however it ends


class LocalRun:
    """Executes pieces of work one after the other, each at most once in the life of the store."""

    def __init__(self, store: ArtifactStore, *, make_line: Callable[[str], Line] = Line) -> None:
        self.store = store
        self.ledger = Ledger(store)
        self._line = make_line
        self._models = ModelCache()
        self.references = References(store, self._import)

    def plan(self, config: RunConfig) -> Plan:
        """Return the plan of a recipe, importing the data it names. Raises UserError."""
        return build_plan(*self.references.resolve(config))

    def _import(self, kind: str, config: dict[str, Any], inputs: dict[str, str], stamp: str) -> str:
        fingerprint = fingerprint_of(kind, config, inputs)
        if stamp:  # the fingerprint names a path, and what is there may change
            fingerprint = hashlib.sha256(f"{fingerprint}:{stamp}".encode()).hexdigest()
        stage = PlannedStage(kind, kind, config, {}, inputs, fingerprint)
        return self.do(stage, inputs, stage.title).digest

    def do(self, stage: PlannedStage, inputs: Mapping[str, str], title: str) -> Finished:
        """Return the stage's result: recorded earlier, or made now."""
        with self._line(title) as line, self.ledger.lock(stage.fingerprint):
            found = self.ledger.get(stage.fingerprint)
            if found is not None:
                line.end(f"done before, {clock(found.seconds)}")
                return found
            parts = [self._part(stage, inputs, index, line) for index in range(stage.shards)]
            finished = self._whole(stage, parts)
            self.ledger.put(stage.fingerprint, finished)
            self.store.discard_checkpoints(stage.fingerprint)
            line.end(_outcome(finished))
        return finished

    def _part(self, stage: PlannedStage, inputs: Mapping[str, str], index: int, line: Line) -> Finished:
        name = f"{stage.fingerprint}.{index}"
        found = self.ledger.get(name)
        if found is not None:
            return found
        spec = StageSpec(
            kind=stage.kind, fingerprint=stage.fingerprint, config=stage.config, inputs=dict(inputs), shard_index=index,
            shard_count=stage.shards,
        )  # fmt: skip
        line.begin(f"part {index + 1} of {stage.shards}" if stage.shards > 1 else "")
        result = execute(spec, self.store, line.show, self._models)
        part = Finished(result.digest, result.summary, line.part_seconds, line.tokens_per_second, line.items)
        self.ledger.put(name, part)
        return part

    def _whole(self, stage: PlannedStage, parts: list[Finished]) -> Finished:
        if len(parts) == 1:
            return parts[0]
        return Finished(
            digest=self.store.commit_parts([part.digest for part in parts], kind=stage.kind),
            summary=add_summaries([part.summary for part in parts]),
            seconds=sum(part.seconds for part in parts),
            tokens_per_second=parts[-1].tokens_per_second,
            items=f"{len(parts)} × {parts[0].items}",
        )

    def run(self, config: RunConfig) -> dict[str, Finished]:
        """Execute a recipe and return the result of each of its stages by key. Raises UserError."""
        plan = self.plan(config)
        done: dict[str, Finished] = {}
        for number, stage in enumerate(plan.stages, start=1):
            inputs = stage.digests | {name: done[key].digest for name, key in stage.needs.items()}
            title = f"[{number:>2} of {len(plan.stages)}] {stage.key.replace('_', ' '):<22}"
            done[stage.key] = self.do(stage, inputs, title)
        self._record(config, plan, done)
        return done

    def _record(self, config: RunConfig, plan: Plan, done: Mapping[str, Finished]) -> None:
        """Write what the run made into `runs/<name>.json` under the store's root."""
        value = {
            "config": config.model_dump(mode="json"),
            "stages": {
                stage.key: {"fingerprint": stage.fingerprint, **asdict(done[stage.key])} for stage in plan.stages
            },
        }
        path = self.record_path(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")

    def record_path(self, config: RunConfig) -> Path:
        """Return the file that says what a run made."""
        return self.store.root / "runs" / f"{re.sub(r'[^a-z0-9]+', '-', config.name.lower()).strip('-') or 'run'}.json"


def _outcome(finished: Finished) -> str:
    rate = f"{finished.tokens_per_second:,.0f} tokens/s" if finished.tokens_per_second else ""
    rows = ""
    if "rows_in" in finished.summary:
        rows = "{rows_in:,} rows in, {rows_kept:,} kept, {rows_rejected:,} rejected".format(**finished.summary)
    return "  ".join(part for part in (clock(finished.seconds), finished.items, rate, rows) if part)
