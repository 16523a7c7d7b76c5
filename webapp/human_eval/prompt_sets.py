"""Which prompts of a dataset a campaign is about: of one split of the compared runs, none that a system was trained on."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rso_core.artifacts import Row, read_table
from rso_core.config import DataConfig, RunConfig
from rso_core.errors import UserError
from rso_core.run_data import assign_split, choose_prompts, split_settings
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset, Run

ANY = "any"
SPLITS = [
    ("test", "test: seen by no training and no choice of checkpoint"),
    ("validation", "validation: the checkpoints of the policies were chosen on it"),
    (ANY, "any split, for datasets that no system was trained on"),
]
_DEFAULT_SPLIT = {
    "seed": DataConfig(preferences="-", sft="-").split_seed,
    "validation_fraction": DataConfig(preferences="-", sft="-").validation_fraction,
    "test_fraction": DataConfig(preferences="-", sft="-").test_fraction,
}
_TRAINING_DATA = ("sft", "preferences")


@dataclass(frozen=True)
class PromptSet:
    """The chosen rows of a dataset, in the order they were drawn, and what was left out."""

    rows: Sequence[Row]
    available: int  # prompts of the split that no system was trained on
    trained_on: int  # prompts left out, because a system was trained on them


def prompt_set(dataset: Dataset, *, split: str, runs: Collection[Run], limit: int, seed: int) -> PromptSet:
    """Draw `limit` prompts (0: all) by seed. Raises UserError when there are fewer, or none.

    A prompt is in a split when it is so under the split settings of every run. It is left out when it, or another turn
    of its conversation, is among the training data of any run.
    """
    table = read_table(store().files(dataset.digest), ["prompt_id", "root"])
    first: dict[str, int] = {}
    for index, prompt in enumerate(table["prompt_id"].to_pylist()):
        first.setdefault(prompt, index)
    roots = table["root"].take(pa.array(first.values(), pa.int64())).to_pylist()
    root_of = dict(zip(first, roots, strict=True))
    candidates = _in_split(root_of, split, [_settings(run) for run in runs] or [_DEFAULT_SPLIT])
    trained = _trained_on({prompt: root_of[prompt] for prompt in candidates}, runs)
    left = [prompt for prompt in candidates if prompt not in trained]
    _refuse_too_few(dataset, split, left, limit, len(trained))
    chosen = choose_prompts(left, limit, seed)
    return PromptSet(_rows(dataset, [first[prompt] for prompt in chosen]), len(left), len(trained))


def _settings(run: Run) -> dict[str, Any]:
    return split_settings(RunConfig.model_validate(run.config))


def _in_split(root_of: Mapping[str, str], split: str, settings: Sequence[Mapping[str, Any]]) -> list[str]:
    if split == ANY:
        return list(root_of)
    distinct = {json.dumps(item, sort_keys=True): item for item in settings}.values()
    return [prompt for prompt, root in root_of.items() if all(assign_split(root, item) == split for item in distinct)]


def _trained_on(root_of: Mapping[str, str], runs: Iterable[Run]) -> set[str]:
    """Return the prompts that stand, themselves or by their conversation, in the training split of a run's data."""
    found: set[str] = set()
    sources = {(digest, json.dumps(_settings(run), sort_keys=True)) for run in runs for digest in _training_data(run)}
    for digest, settings in sources:
        table = read_table(store().files(digest), ["prompt_id", "root"])
        roots, prompts = pa.array(set(root_of.values()), pa.string()), pa.array(root_of, pa.string())
        shared = table.filter(pc.or_(pc.is_in(table["root"], roots), pc.is_in(table["prompt_id"], prompts)))
        pairs = set(zip(shared["prompt_id"].to_pylist(), shared["root"].to_pylist(), strict=True))
        train = {pair for pair in pairs if assign_split(pair[1], json.loads(settings)) == "train"}
        train_prompts, train_roots = {prompt for prompt, _ in train}, {root for _, root in train}
        found |= {prompt for prompt, root in root_of.items() if prompt in train_prompts or root in train_roots}
    return found


def _training_data(run: Run) -> set[str]:
    """Return the digests of the datasets that the stages of a run read."""
    digests = run.stages.values_list("input_digests", flat=True)
    return {item[name] for item in digests for name in _TRAINING_DATA if name in item}


def _refuse_too_few(dataset: Dataset, split: str, left: Sequence[str], limit: int, trained: int) -> None:
    if left and len(left) >= limit:
        return
    where = "it" if split == ANY else f"its {split} split (under the split settings of all chosen runs)"
    because = f"; {trained:,} more were left out because a chosen system was trained on them" if trained else ""
    message = (
        f"{dataset.name!r} has {len(left):,} prompts in {where} that no chosen system was trained on{because}. "
        f"{limit or 'At least one'} are needed: ask for fewer, or choose another dataset or split"
    )
    raise UserError(message)


def _rows(dataset: Dataset, indices: Sequence[int]) -> list[Row]:
    columns = ["prompt_id", "root", "prompt", "messages"]
    columns += ["target"] if dataset.kind == Dataset.Kind.SFT else []
    table = read_table(store().files(dataset.digest), columns)
    rows: list[Row] = table.take(pa.array(indices, pa.int64())).to_pylist()
    return rows
