"""The graph of stages that makes and evaluates one policy; `rso_core.planner` makes it of a run's configuration.

The web, the command line and the tests use the same plan. A stage's fingerprint is the SHA-256 of its kind,
its configuration, its inputs and the version of its code, so equal work has one fingerprint whichever run
asks for it. Must not import torch, transformers or datasets.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rso_core.errors import UserError
from rso_core.vocabulary import canonical_json

Queue = Literal["gpu", "cpu"]

# Raise a stage's number when a change of its code changes its output.
CODE_VERSIONS: dict[str, int] = {
    "length_profile": 1,
    "sft": 8,
    "reward_training": 10,
    "sampling": 3,
    "scoring": 4,
    "combined_rewards": 1,
    "rejection_sampling": 1,
    "preference_pairs": 5,
    "candidate_targets": 1,
    "reference_log_probs": 3,
    "policy_fitting": 9,
    "checkpoint_selection": 7,
    "checkpoint_figures": 3,
    "generation": 4,
    "win_rate": 6,
    "auto_sxs": 2,
    "judge_accuracy": 2,
    "report": 2,
    # Not part of a run: work the product does before one, or after it for a human evaluation.
    "import_dataset": 1,
    "import_model": 1,
    "responses": 4,
}
CPU_KINDS = frozenset(
    {"length_profile", "combined_rewards", "rejection_sampling", "report", "import_dataset", "import_model"}
)
MEASURING_KINDS = frozenset({"win_rate", "checkpoint_figures"})  # what may read the gold reward model
GOLD = "gold_reward_training"
TITLES: dict[str, str] = {
    "length_profile": "length profile",
    "sft": "SFT",
    "reward_training": "reward model",
    "sampling": "sampling",
    "scoring": "scoring",
    "combined_rewards": "combined rewards",
    "rejection_sampling": "rejection sampling",
    "preference_pairs": "pairs",
    "candidate_targets": "targets",
    "reference_log_probs": "reference log-probs",
    "policy_fitting": "policy fitting",
    "checkpoint_selection": "checkpoint selection",
    "checkpoint_figures": "checkpoint figures",
    "generation": "generation",
    "win_rate": "win rate",
    "auto_sxs": "AutoSxS",
    "judge_accuracy": "judge accuracy",
    "report": "report",
    "import_dataset": "dataset import",
    "import_model": "model import",
    "responses": "responses",
}


def fingerprint_of(kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the SHA-256 that identifies a piece of work.

    `inputs` maps each input name to the fingerprint of the stage that makes it, or to the digest of an
    imported dataset or model.
    """
    value = [kind, CODE_VERSIONS[kind], config, inputs]
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan. `needs` maps input names to keys of stages, `digests` to imported artifacts."""

    key: str
    kind: str
    config: dict[str, Any]
    needs: dict[str, str]
    digests: dict[str, str]
    fingerprint: str
    shards: int = 1
    work: str = ""  # counted work, for people: "400 prompts × 64 candidates"

    @property
    def queue(self) -> Queue:
        """Return the Celery queue the stage belongs on."""
        asks_others = "endpoint" in self.config or "endpoint" in self.config.get(
            "judge", {}
        )  # such work waits more than it computes
        return "cpu" if self.kind in CPU_KINDS or asks_others else "gpu"

    @property
    def title(self) -> str:
        """Return the stage's name for people."""
        return TITLES[self.kind]


@dataclass(frozen=True)
class Plan:
    """The stages of a run in an order in which they can be executed, and what was counted to make it."""

    stages: tuple[PlannedStage, ...]
    counts: dict[str, int]
    warnings: tuple[str, ...] = ()

    def stage(self, key: str) -> PlannedStage:
        """Return the stage with this key."""
        return next(stage for stage in self.stages if stage.key == key)


def refuse_gold_in_training(stages: Iterable[PlannedStage]) -> None:
    """Raise UserError when the gold reward model is the training one, ValueError when work other than measuring needs it."""
    by_key = {stage.key: stage for stage in stages}
    if GOLD not in by_key:
        return
    gold = by_key[GOLD].fingerprint
    if gold == by_key["reward_training"].fingerprint:
        message = (
            "the gold reward model would be the training reward model itself, and could not show what that one overlooks: "
            "give it a share of D_hf (gold_reward.share), a dataset (gold_reward.preferences), a model (gold_reward.model) or "
            "a training of its own"
        )
        raise UserError(message)
    for stage in by_key.values():
        used = {by_key[key].fingerprint for key in stage.needs.values()}
        if gold in used and stage.kind not in MEASURING_KINDS:
            message = (
                f"`{stage.key}` must not need the gold reward model: only {', '.join(sorted(MEASURING_KINDS))} may"
            )
            raise ValueError(message)
