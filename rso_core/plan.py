"""Turn a run's configuration into the graph of stages that makes and evaluates one policy.

The web, the command line and the tests use the same plan. A stage's fingerprint is the SHA-256 of its kind,
its configuration, its inputs and the version of its code, so equal work has one fingerprint whichever run
asks for it. Must not import torch, transformers or datasets.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rso_core.config import GoldRewardConfig, RewardConfig, RunConfig
from rso_core.errors import UserError
from rso_core.judge_prompts import parse_few_shot
from rso_core.run_data import RunData, counts_of, part_settings, preferences_of, refuse_overlap, split_settings
from rso_core.vocabulary import Split, canonical_json

Queue = Literal["gpu", "cpu"]

# Raise a stage's number when a change of its code changes its output.
CODE_VERSIONS: dict[str, int] = {
    "length_profile": 1,
    "sft": 4,
    "reward_training": 6,
    "sampling": 2,
    "scoring": 3,
    "rejection_sampling": 1,
    "preference_pairs": 3,
    "reference_log_probs": 2,
    "policy_fitting": 4,
    "checkpoint_selection": 4,
    "generation": 2,
    "win_rate": 4,
    "auto_sxs": 1,
    "judge_accuracy": 1,
    "report": 2,
    # Not part of a run: work the product does before one, or after it for a human evaluation.
    "import_dataset": 1,
    "import_model": 1,
    "responses": 2,
}
CPU_KINDS = frozenset({"length_profile", "rejection_sampling", "report", "import_dataset", "import_model"})
MEASURING_KINDS = frozenset({"win_rate"})  # what may read the gold reward model
GOLD = "gold_reward_training"
TITLES: dict[str, str] = {
    "length_profile": "length profile",
    "sft": "SFT",
    "reward_training": "reward model",
    "sampling": "sampling",
    "scoring": "scoring",
    "rejection_sampling": "rejection sampling",
    "preference_pairs": "pairs",
    "reference_log_probs": "reference log-probs",
    "policy_fitting": "policy fitting",
    "checkpoint_selection": "checkpoint selection",
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


@dataclass
class _Builder:
    """Collects stages; a stage may need only stages added before it."""

    stages: dict[str, PlannedStage] = field(default_factory=dict)

    def add(
        self,
        key: str,
        kind: str,
        config: dict[str, Any],
        *,
        needs: dict[str, str] | None = None,
        digests: dict[str, str] | None = None,
        shards: int = 1,
        work: str = "",
    ) -> str:
        needs, digests = needs or {}, digests or {}
        inputs = {name: self.stages[stage].fingerprint for name, stage in needs.items()} | digests
        fingerprint = fingerprint_of(kind, config, inputs)
        self.stages[key] = PlannedStage(key, kind, config, needs, digests, fingerprint, shards, work)
        return key


def responses_stage(
    config: RunConfig, *, policy: str, prompts: str, count: int, key: str = "responses"
) -> PlannedStage:
    """Return the stage that samples a response of one model for each prompt of a list, as `generation` samples in its run.

    `config` is the run's that the model comes from; `policy` and `prompts` are the digests of model and list.
    """
    evaluation = config.evaluation
    settings: dict[str, Any] = {
        **limits_of(config),
        "dtype": config.model.dtype,
        "seed": config.seed,
        "temperature": evaluation.temperature,
        "top_k": evaluation.top_k,
        "batch_size": config.sampling.batch_size,
    }
    digests = {"policy": policy, "prompts": prompts}
    fingerprint = fingerprint_of("responses", settings, digests)
    return PlannedStage(key, "responses", settings, {}, digests, fingerprint, work=f"{count} prompts")


def limits_of(config: RunConfig) -> dict[str, Any]:
    """Return how a run writes prompts for its policy, and how long prompts and responses may be."""
    return {
        "task": config.task,
        "prompt_template": config.model.prompt_template,
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "max_response_tokens": config.data.max_response_tokens,
    }


def reward_limits(config: RunConfig, reward: RewardConfig | GoldRewardConfig) -> dict[str, Any]:
    """Return how a run's comparisons are written for one of its reward models."""
    return {
        "task": config.task,
        "max_length": reward.max_length,
        "order_average": reward.order_average,
        "dtype": config.model.dtype,
        "batch_size": config.sampling.batch_size,
    }


def build_plan(config: RunConfig, data: RunData) -> Plan:
    """Return the stages of a run. Raises UserError when data is missing, splits overlap or a split is empty."""
    split = split_settings(config)
    prompts = data.prompts_by_split(config.data.sft, split)
    human = [data.prompts_by_split(name, split) for name in preferences_of(config)]
    refuse_overlap(prompts, *human)
    counts = counts_of(config, data, prompts, split)
    return _Planner(config, data, split, counts).build()


class _Planner:
    """Adds the stages of one run, each with just the settings it depends on, so that runs share stages."""

    def __init__(self, config: RunConfig, data: RunData, split: dict[str, Any], counts: dict[str, int]) -> None:
        self.config, self.data, self.split, self.counts = config, data, split, counts
        self.plan = _Builder()
        self.sft_data = {"sft": data.dataset(config.data.sft)}
        self.preferences = {"preferences": data.dataset(config.data.preferences)}
        self.base = {"base": data.model(config.model.base)}
        self.limits = limits_of(config)
        self.weights = config.model.model_dump(include={"dtype", "method", "lora_rank", "lora_alpha"})
        self.reward_limits = reward_limits(config, config.reward)
        self.has_gold_model = config.evaluation.gold == "reward_model"

    def build(self) -> Plan:
        profile = {**self.limits, "max_length": self.config.reward.max_length, "split": self.split}
        self.plan.add("length_profile", "length_profile", profile, digests=self.base | self.sft_data | self.preferences)
        self._add_sft()
        self._add_reward_training()
        if self.has_gold_model:
            self._add_gold_reward_training()
        pairs = self._add_pairs()
        self._add_fitting(pairs)
        self._add_evaluation()
        refuse_gold_in_training(self.plan.stages.values())
        return Plan(tuple(self.plan.stages.values()), self.counts, tuple(_warnings(self.config)))

    def _add_sft(self) -> None:
        sft = self.config.sft
        training = sft.model_dump(mode="json")
        self.plan.add(
            "sft",
            "sft",
            {**self.limits, **self.weights, "split": self.split, "seed": self.config.seed, "training": training},
            digests=self.base | self.sft_data,
            work=f"{self.counts['sft_rows']} targets × {sft.epochs:g} epochs"
            if sft.enabled
            else "the base model as it is",
        )

    def _add_reward_training(self) -> None:
        reward = self.config.reward
        config = self._reward_settings(reward, self.reward_limits, "training")
        needs = {"base": "sft"} if reward.start_from == "sft" else {}
        digests = {} if reward.start_from == "sft" else dict(self.base)
        if reward.start_from == "model":
            digests = {"base": self.data.model(reward.model)}
        self.plan.add(
            "reward_training",
            "reward_training",
            config,
            needs=needs,
            digests=digests | self.preferences,
            work=f"{self.counts['preference_train_pairs']} human pairs × {reward.epochs:g} epochs",
        )

    def _reward_settings(
        self, reward: RewardConfig | GoldRewardConfig, limits: dict[str, Any], part: str
    ) -> dict[str, Any]:
        unused = {"model", "order_average", "max_length", "preferences", "share", "start_from"}
        return {
            **limits,
            **self.weights,
            "split": part_settings(self.config, part),
            "seed": self.config.seed,
            "training": reward.model_dump(mode="json", exclude=unused),
        }

    def _add_gold_reward_training(self) -> None:
        gold = self.config.gold_reward
        self.plan.add(
            GOLD,
            "reward_training",
            self._reward_settings(gold, reward_limits(self.config, gold), "gold"),
            digests={
                "base": self.data.model(gold.model or self.config.model.base),
                "preferences": self.data.dataset(gold.preferences or self.config.data.preferences),
            },
            work=f"{self.counts['gold_train_pairs']} human pairs × {gold.epochs:g} epochs, for figures only",
        )

    def _add_pool(self) -> None:
        sampling = self.config.sampling
        shards = -(-self.counts["train_prompts"] // sampling.prompts_per_shard)
        work = f"{self.counts['train_prompts']} prompts × {sampling.num_candidates} candidates"
        self.plan.add(
            "sampling",
            "sampling",
            {
                **self.limits,
                "dtype": self.config.model.dtype,
                "split": self.split,
                "seed": self.config.seed,
                "sampling": sampling.model_dump(mode="json", exclude={"truncated", "endpoint"}),
                **({"endpoint": self.data.endpoint(sampling.endpoint)} if sampling.endpoint else {}),
            },
            needs={"policy": "sft"},
            digests=self.sft_data,
            shards=shards,
            work=work,
        )
        if self.config.pairs.pair_source == "rso_sample_rank":
            self.plan.add(
                "scoring",
                "scoring",
                self.reward_limits,
                needs={"reward_model": "reward_training", "pool": "sampling"},
                shards=shards,
                work=f"{work}, against a baseline" + (", both orders" if self.config.reward.order_average else ""),
            )

    def _add_pairs(self) -> str:
        source = self.config.pairs.pair_source
        by_judge = self.config.pairs.label == "auto_sxs"
        # Pairs labelled by ρ keep the fingerprint that they have without a judge.
        judged = {"label": "auto_sxs", "judge": self._judge_settings()} if by_judge else {}
        judge = self._judge_digests() if by_judge else {}
        if source == "direct":
            return self.plan.add(
                "pairs",
                "preference_pairs",
                {
                    **self.limits,
                    "pair_source": "direct",
                    "split": part_settings(self.config, "training"),
                    **({"seed": self.config.seed, **judged} if judged else {}),
                },
                needs={"policy": "sft"},
                digests=self.preferences | judge,
                work=f"{self.counts['preference_train_pairs']} human pairs",
            )
        self._add_pool()
        # The random control is rejection sampling at β = ∞, and with one seed it is exactly that.
        selection = self.config.rejection_sampling.model_dump(mode="json")
        needs = {"pool": "sampling"}
        if source == "sft_sample_rank":
            selection["beta"] = "inf"
        else:
            needs["scores"] = "scoring"
        self.plan.add(
            "rejection_sampling",
            "rejection_sampling",
            {**selection, "truncated": self.config.sampling.truncated, "seed": self.config.seed},
            needs=needs,
            work=f"{self.counts['train_prompts']} prompts, {self.config.sampling.num_candidates} → {selection['num_samples']}",
        )
        return self.plan.add(
            "pairs",
            "preference_pairs",
            {
                **self.reward_limits,
                "pair_source": "samples",
                "ranking": self.config.pairs.ranking,
                "seed": self.config.seed,
                **judged,
            },
            needs={"kept": "rejection_sampling"} | ({} if by_judge else {"reward_model": "reward_training"}),
            digests=judge,
            work=f"{self.counts['train_prompts']} prompts × {_games(self.config)} games",
        )

    def _add_fitting(self, pairs: str) -> None:
        fitting = self.config.fitting
        self.plan.add(
            "reference_log_probs",
            "reference_log_probs",
            {**self.limits, "dtype": self.config.model.dtype, "batch_size": fitting.micro_batch_size or 8},
            needs={"policy": "sft", "pairs": pairs},
            work="once per distinct response",
        )
        training = fitting.model_dump(mode="json", exclude={"select_by"})
        self.plan.add(
            "policy_fitting",
            "policy_fitting",
            {**self.limits, **self.weights, "seed": self.config.seed, "training": training},
            needs={"policy": "sft", "pairs": pairs, "reference": "reference_log_probs"},
            work=f"{fitting.epochs:g} epochs, {fitting.batch_size} pairs a step",
        )
        self.plan.add(
            "checkpoint_selection",
            "checkpoint_selection",
            {
                **self._generation("validation", self.config.evaluation.max_validation_prompts),
                "reward": self.reward_limits,
                "select_by": fitting.select_by,
            },
            needs={"checkpoints": "policy_fitting", "reward_model": "reward_training"},
            digests=self.sft_data,
            work=f"{fitting.num_checkpoints} checkpoints × {self.counts['validation_prompts']} validation prompts",
        )

    def _generation(self, split: Split, max_prompts: int) -> dict[str, Any]:
        evaluation = self.config.evaluation
        return {
            **self.limits,
            "dtype": self.config.model.dtype,
            "split": self.split,
            "seed": self.config.seed,
            "use_split": split,
            "max_prompts": max_prompts,
            "temperature": evaluation.temperature,
            "top_k": evaluation.top_k,
            "batch_size": self.config.sampling.batch_size,
        }

    def _add_evaluation(self) -> None:
        evaluation = self.config.evaluation
        gold = {"gold_model": GOLD} if self.has_gold_model else {}
        for key, policy in (("sft", "sft"), ("policy", "checkpoint_selection")):
            self.plan.add(
                f"generation_{key}",
                "generation",
                self._generation("test", evaluation.max_test_prompts),
                needs={"policy": policy},
                digests=self.sft_data,
                work=f"{self.counts['test_prompts']} test prompts",
            )
            self.plan.add(
                f"win_rate_{key}",
                "win_rate",
                {
                    **self.reward_limits,
                    "gold": evaluation.gold,
                    **({"gold_reward": reward_limits(self.config, self.config.gold_reward)} if gold else {}),
                    "bootstrap_draws": evaluation.bootstrap_draws,
                    "seed": self.config.seed,
                },
                needs={"responses": f"generation_{key}", "reward_model": "reward_training", **gold},
                work=f"{self.counts['test_prompts']} comparisons with the SFT target",
            )
        judged = self._add_judge() if self.config.judge.backend != "none" else {}
        self.plan.add(
            "report",
            "report",
            {"bootstrap_draws": evaluation.bootstrap_draws, "seed": self.config.seed},
            needs={"sft": "win_rate_sft", "policy": "win_rate_policy", **judged},
            work="paired difference, lengths, side-by-sides",
        )

    def _add_judge(self) -> dict[str, str]:
        """Add AutoSxS of both systems, and the judge's own accuracy; return what the report needs of it."""
        judge, pairs = self.config.judge, self.counts["preference_test_pairs"]
        config = {
            "judge": self._judge_settings(),
            "bootstrap_draws": self.config.evaluation.bootstrap_draws,
            "seed": self.config.seed,
        }
        for key in ("sft", "policy"):
            self.plan.add(
                f"auto_sxs_{key}",
                "auto_sxs",
                config,
                needs={"responses": f"generation_{key}"},
                digests=self._judge_digests(),
                work=f"{self.counts['test_prompts']} comparisons × {judge.samples} answers",
            )
        measured = min(pairs, judge.accuracy_pairs) if judge.accuracy_pairs else pairs
        self.plan.add(
            "judge_accuracy",
            "judge_accuracy",
            {**config, "split": self.split, "accuracy_pairs": judge.accuracy_pairs},
            digests=self._judge_digests() | self.preferences,
            work=f"{measured} held-out human pairs × {judge.samples} answers",
        )
        return {"judged_sft": "auto_sxs_sft", "judged_policy": "auto_sxs_policy", "judge_accuracy": "judge_accuracy"}

    def _judge_settings(self) -> dict[str, Any]:
        judge = self.config.judge
        return {
            **judge.model_dump(mode="json", include={"samples", "temperature", "top_k", "max_tokens"}),
            "few_shot": parse_few_shot(judge.few_shot, self.config.task).model_dump(mode="json"),
            **(
                {"endpoint": self.data.endpoint(judge.endpoint)}
                if judge.backend == "endpoint"
                else {"dtype": self.config.model.dtype, "batch_size": self.config.sampling.batch_size}
            ),
        }

    def _judge_digests(self) -> dict[str, str]:
        if self.config.judge.backend == "endpoint":
            return {}
        return {"judge": self.data.model(self.config.judge.model)}


def _warnings(config: RunConfig) -> Iterator[str]:
    if config.sampling.endpoint and config.pairs.pair_source != "direct":
        yield f"Candidates come from the endpoint {config.sampling.endpoint}, not from π_sft: its model is the proposal of the target policy."
    if config.pairs.label == "auto_sxs":
        yield "AutoSxS labels the training pairs and measures the policy: its win rate is not independent of the training."


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


def _games(config: RunConfig) -> int:
    kept = config.rejection_sampling.num_samples
    return kept // 2 if config.pairs.ranking == "first_round_rank" else kept - 1
