"""The data of a run: which prompts each split holds, and how many of them the run works on.

Must not import torch, transformers or datasets.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rso_core.artifacts import ArtifactStore, read_table
from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.objectives import parse_objectives
from rso_core.vocabulary import SPLITS, Split, split_of


class RunData:
    """The imported datasets and models of a run: digests, and how many prompts each split holds.

    `datasets` and `models` map the references written in the configuration to artifact digests, `endpoints` those of
    allowed endpoints to the models behind them.
    """

    def __init__(
        self,
        store: ArtifactStore,
        datasets: Mapping[str, str],
        models: Mapping[str, str],
        endpoints: Mapping[str, str] | None = None,
    ) -> None:
        self._store = store
        self._datasets = datasets
        self._models = models
        self._endpoints = endpoints or {}

    def dataset(self, reference: str) -> str:
        """Return the digest of a dataset. Raises UserError when no dataset has that name."""
        return _look_up(self._datasets, reference, "dataset")

    def model(self, reference: str) -> str:
        """Return the digest of a model. Raises UserError when no model has that name."""
        return _look_up(self._models, reference, "model")

    def endpoint(self, reference: str) -> dict[str, str]:
        """Return an endpoint's name and model: what a stage knows of it. Raises UserError when none has that name."""
        if reference not in self._endpoints:
            known = ", ".join(sorted(self._endpoints)) or "none yet"
            message = f"no endpoint is called {reference!r}; known: {known}. An admin adds it to the file that RSO_ENDPOINTS names"
            raise UserError(message)
        return {"name": reference, "model": self._endpoints[reference]}

    def prompts_by_split(self, reference: str, split_config: Mapping[str, Any]) -> dict[Split, set[str]]:
        """Return the prompt ids of a dataset in each split."""
        table = read_table(self._store.files(self.dataset(reference)), ["prompt_id", "root"])
        return split_prompts(zip(table["prompt_id"].to_pylist(), table["root"].to_pylist(), strict=True), split_config)

    def rows_in(self, reference: str, split: Split, split_config: Mapping[str, Any]) -> int:
        """Return how many rows of a dataset are in a split."""
        roots = read_table(self._store.files(self.dataset(reference)), ["root"])["root"].to_pylist()
        inside = {root: is_in_split(root, split, split_config) for root in set(roots)}
        return sum(inside[root] for root in roots)


def _look_up(known: Mapping[str, str], reference: str, what: str) -> str:
    if reference not in known:
        message = f"no {what} is called {reference!r}; known: {', '.join(sorted(known)) or 'none yet'}. Import it first"
        raise UserError(message)
    return known[reference]


def assign_split(root: str, split_config: Mapping[str, Any]) -> Split:
    """Return the split of a conversation root under the `split` part of a stage's configuration."""
    return split_of(
        root,
        seed=split_config["seed"],
        validation_fraction=split_config["validation_fraction"],
        test_fraction=split_config["test_fraction"],
    )


def is_in_split(root: str, split: Split, split_config: Mapping[str, Any]) -> bool:
    """Return whether a conversation is in a split and, where training conversations are divided, in the stage's part."""
    if assign_split(root, split_config) != split:
        return False
    return split != "train" or "part" not in split_config or _part_of(root, split_config) == split_config["part"]


def _part_of(root: str, split_config: Mapping[str, Any]) -> str:
    """Return which reward model a training conversation of D_hf belongs to, "gold" or "training": a pure function of the root."""
    digest = hashlib.sha256(f"{split_config['seed']}:gold:{root}".encode()).digest()
    return "gold" if int.from_bytes(digest[:8]) / 2**64 < split_config["gold_share"] else "training"


def part_settings(config: RunConfig, part: str) -> dict[str, Any]:
    """Return the split of D_hf for one reward model: divided only where the gold one has a share of its own."""
    share = config.gold_reward.share
    is_divided = config.evaluation.gold == "reward_model" and share
    return split_settings(config) | ({"part": part, "gold_share": share} if is_divided else {})


def split_prompts(pairs: Iterable[tuple[str, str]], split_config: Mapping[str, Any]) -> dict[Split, set[str]]:
    """Return the prompt ids of each split, from (prompt id, conversation root) pairs."""
    found: dict[Split, set[str]] = {split: set() for split in SPLITS}
    for prompt, root in set(pairs):
        found[assign_split(root, split_config)].add(prompt)
    return found


def choose_prompts(prompt_ids: Collection[str], limit: int, seed: int) -> list[str]:
    """Return `limit` prompt ids (0: all) drawn by seed, in an order that depends on nothing else."""
    ordered = sorted(prompt_ids, key=lambda item: hashlib.sha256(f"{seed}:{item}".encode()).digest())
    return ordered[:limit] if limit else ordered


def split_settings(config: RunConfig) -> dict[str, Any]:
    """Return the part of the configuration that decides every split of the run."""
    return {
        "seed": config.data.split_seed,
        "validation_fraction": config.data.validation_fraction,
        "test_fraction": config.data.test_fraction,
    }


def preferences_of(config: RunConfig) -> list[str]:
    """Return the references of the preference datasets a run reads."""
    own = config.gold_reward.preferences if config.evaluation.gold == "reward_model" else ""
    return [config.data.preferences, *([own] if own else [])]


def prompts_of(config: RunConfig) -> str:
    """Return the reference of the dataset whose prompts are sampled from and evaluated on."""
    return config.data.prompts or config.data.sft


def targets_of(config: RunConfig) -> list[str]:
    """Return the references of the SFT datasets a run reads, that of π_sft first."""
    return [config.data.sft, *([config.data.prompts] if config.data.prompts else [])]


def models_of(config: RunConfig) -> list[str]:
    """Return the references of the models a run reads."""
    gold = config.gold_reward.model if config.evaluation.gold == "reward_model" else ""
    own = [name for name in (config.reward.model, gold, config.judge.model) if name]
    return [config.model.base, *own, *(name for name, _ in parse_objectives(config.objectives.models))]


def refuse_overlap(*datasets: Mapping[Split, set[str]]) -> None:
    """Raise UserError when a prompt is in two splits (roots come from a mapped column, or texts differ in root)."""
    union = {split: set().union(*(dataset[split] for dataset in datasets)) for split in SPLITS}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = union[first] & union[second]  # type: ignore[index]
        if shared:
            message = (
                f"{len(shared)} prompts would be in both {first} and {second} (for example {min(shared)}): the same prompt "
                f"text belongs to different conversation roots. Import the data again without the root column, or with one "
                f"that gives equal prompts equal roots"
            )
            raise UserError(message)


def counts_of(
    config: RunConfig, data: RunData, prompts: Mapping[Split, set[str]], split: Mapping[str, Any]
) -> dict[str, int]:
    """Return how many prompts, rows and pairs the run works on. Raises UserError when a split has none."""

    def limited(available: int, limit: int) -> int:
        return min(available, limit) if limit else available

    counts = {
        "train_prompts": limited(len(prompts["train"]), config.sampling.max_prompts),
        "validation_prompts": limited(len(prompts["validation"]), config.evaluation.max_validation_prompts),
        "test_prompts": limited(len(prompts["test"]), config.evaluation.max_test_prompts),
        "sft_rows": data.rows_in(config.data.sft, "train", split),
        "preference_train_pairs": data.rows_in(config.data.preferences, "train", part_settings(config, "training")),
        "preference_test_pairs": data.rows_in(config.data.preferences, "test", split),
    }
    if config.evaluation.gold == "reward_model":
        gold = config.gold_reward.preferences or config.data.preferences
        counts["gold_train_pairs"] = data.rows_in(gold, "train", part_settings(config, "gold"))
    for name, count in counts.items():
        if count == 0 and name != "preference_test_pairs":
            message = f"there are no {name.replace('_', ' ')}: give that split a larger fraction, or import more data"
            raise UserError(message)
    return counts
