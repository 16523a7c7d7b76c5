"""A whole run on toy data and a toy model, stage by stage, as the worker and the command line execute it."""

import itertools
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from rso_core.artifacts import ROWS, ArtifactStore, Row, iterate_rows, write_rows
from rso_core.config import RunConfig
from rso_core.endpoint_settings import allowed_models
from rso_core.plan import Plan, PlannedStage
from rso_core.planner import build_plan
from rso_core.protocol import Event, Result, StageSpec
from rso_core.run_data import RunData
from rso_core.stages import ModelCache, execute
from rso_core.vocabulary import COLUMNS, DatasetKind, Family, Message, canonical_json, conversation_root, prompt_id
from tests.rso_core.toys import WORDS, toy_model

PROMPTS = 40


def texts(count: int, length: int, seed: int) -> list[str]:
    """Return distinct texts of toy words."""
    draw = random.Random(seed)  # noqa: S311
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(draw.choices(WORDS, k=length))] = None
    return list(found)


def dataset_row(number: int, prompt: str, **columns: str) -> Row:
    messages: list[Message] = [{"role": "user", "content": prompt}]
    return {
        "row_id": number, "prompt_id": prompt_id(prompt), "root": conversation_root(messages), "prompt": prompt,
        "messages": canonical_json(messages), "meta": "{}", **columns,
    }  # fmt: skip


def import_rows(store: ArtifactStore, kind: DatasetKind, rows: Iterable[Row]) -> str:
    """Commit rows as an imported dataset and return its digest."""
    schema = pa.schema([(name, pa.int64() if name == "row_id" else pa.string()) for name in COLUMNS[kind]])
    folder = store.staging()
    write_rows(folder / ROWS, rows, schema)
    return store.commit(folder, kind="import_dataset")


def import_model(store: ArtifactStore, family: Family, *, seed: int = 0) -> str:
    folder = store.staging()
    toy_model(folder / "model", family, seed=seed)
    return store.commit(folder, kind="import_model")


def toy_config(**parts: Any) -> RunConfig:
    """Return a small run; keyword arguments replace settings inside its parts."""
    training = {
        "learning_rate": 0.02,
        "batch_size": 8,
        "micro_batch_size": 4,
        "checkpoint_every": 2,
        "max_steps": 4,
        "epochs": 2,
    }
    settings: dict[str, Any] = {
        "name": "toy",
        "task": "summarization",
        "seed": 3,
        "data": {
            "preferences": "pairs", "sft": "targets", "validation_fraction": 0.25, "test_fraction": 0.25, "split_seed": 1,
            "max_prompt_tokens": 24, "max_response_tokens": 8,
        },
        "model": {"base": "toy"},
        "sft": training,
        "reward": {**training, "max_length": 64},
        "gold_reward": {**training, "max_length": 64},
        "sampling": {"num_candidates": 6, "prompts_per_shard": 16, "batch_size": 32, "temperature": 1.0},
        "rejection_sampling": {"num_samples": 4},
        "pairs": {},
        "fitting": {**training, "num_checkpoints": 2},
        "evaluation": {"bootstrap_draws": 200},
    }  # fmt: skip
    for name, part in parts.items():
        settings[name] = {**settings.get(name, {}), **part} if isinstance(part, dict) else part
    return RunConfig.model_validate(settings)


class Chain:
    """A store with toy data, and the artifacts that a plan's stages have left in it."""

    def __init__(self, folder: Path, family: Family = "causal") -> None:
        self.store = ArtifactStore(str(folder / "store"))
        prompts, targets = texts(PROMPTS, 6, seed=1), texts(PROMPTS, 4, seed=2)
        others = texts(PROMPTS, 3, seed=4)
        sft = [dataset_row(i, p, target=t) for i, (p, t) in enumerate(zip(prompts, targets, strict=True), 1)]
        human = [
            dataset_row(i, p, chosen=t, rejected=o)
            for i, (p, t, o) in enumerate(zip(prompts, targets, others, strict=True), 1)
        ]
        self.datasets = {
            "targets": import_rows(self.store, "sft", sft),
            "pairs": import_rows(self.store, "preference", human),
        }
        self.models = {"toy": import_model(self.store, family)}
        self.digests: dict[str, str] = {}  # by fingerprint
        self.summaries: dict[str, list[dict[str, Any]]] = {}
        self.events: list[Event] = []
        self.cache = ModelCache()

    def plan(self, config: RunConfig) -> Plan:
        return build_plan(config, RunData(self.store, self.datasets, self.models, allowed_models()))

    def spec(self, plan: Plan, stage: PlannedStage, shard: int = 0) -> StageSpec:
        inputs = {name: self.digests[plan.stage(key).fingerprint] for name, key in stage.needs.items()} | stage.digests
        return StageSpec(
            kind=stage.kind, fingerprint=stage.fingerprint, config=stage.config, inputs=inputs, shard_index=shard,
            shard_count=stage.shards,
        )  # fmt: skip

    def run_stage(self, plan: Plan, key: str, *, emit: Callable[[Event], None] | None = None) -> list[Result]:
        """Execute all shards of a stage."""
        stage = plan.stage(key)
        results = [
            execute(self.spec(plan, stage, shard), self.store, emit or self.events.append, self.cache)
            for shard in range(stage.shards)
        ]
        digests = [result.digest for result in results]
        self.digests[stage.fingerprint] = (
            digests[0] if stage.shards == 1 else self.store.commit_parts(digests, kind=stage.kind)
        )
        self.summaries[stage.fingerprint] = [result.summary for result in results]
        return results

    def run(self, config: RunConfig, *, until: str | None = None) -> Plan:
        """Execute a run; stages that an earlier run has made are reused. `until` is the last stage to execute."""
        plan = self.plan(config)
        for stage in plan.stages:
            if stage.kind != "length_profile" and stage.fingerprint not in self.digests:
                self.run_stage(plan, stage.key)
            if stage.key == until:
                break
        return plan

    def digest(self, plan: Plan, key: str) -> str:
        return self.digests[plan.stage(key).fingerprint]

    def summary(self, plan: Plan, key: str) -> dict[str, Any]:
        return self.summaries[plan.stage(key).fingerprint][0]

    def rows(self, plan: Plan, key: str) -> list[Row]:
        return list(iterate_rows(self.store.files(self.digest(plan, key))))

    def report(self, plan: Plan) -> dict[str, Any]:
        path = self.store.path(self.digest(plan, "report")) / "report.json"
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value


def product(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    """Return every combination of settings."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
