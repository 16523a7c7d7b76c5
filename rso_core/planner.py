"""Turn a run's configuration into its plan. Must not import torch, transformers or datasets."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rso_core.config import GoldRewardConfig, RewardConfig, RunConfig
from rso_core.judge_prompts import parse_few_shot
from rso_core.objectives import parse_objectives
from rso_core.plan import GOLD, Plan, PlannedStage, fingerprint_of, refuse_gold_in_training
from rso_core.run_data import (
    RunData,
    counts_of,
    part_settings,
    preferences_of,
    prompts_of,
    refuse_overlap,
    split_settings,
)
from rso_core.vocabulary import Split

# Stages that every round has; those of a round but the last are called sampling_round_1 and so on.
_OF_A_ROUND = frozenset(
    {
        "sampling",
        "scoring",
        "combined_rewards",
        "rejection_sampling",
        "pairs",
        "targets",
        "reference_log_probs",
        "policy_fitting",
    }
)


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
    prompts = data.prompts_by_split(prompts_of(config), split)
    others = [data.prompts_by_split(config.data.sft, split)] if config.data.prompts else []
    human = [data.prompts_by_split(name, split) for name in preferences_of(config)]
    refuse_overlap(prompts, *others, *human)
    counts = counts_of(config, data, prompts, split)
    return _Planner(config, data, split, counts).build()


class _Planner:
    """Adds the stages of one run, each with just the settings it depends on, so that runs share stages."""

    def __init__(self, config: RunConfig, data: RunData, split: dict[str, Any], counts: dict[str, int]) -> None:
        self.config, self.data, self.split, self.counts = config, data, split, counts
        self.plan = _Builder()
        self.sft_data = {"sft": data.dataset(config.data.sft)}
        self.prompts_data = {"sft": data.dataset(prompts_of(config))}
        self.preferences = {"preferences": data.dataset(config.data.preferences)}
        self.base = {"base": data.model(config.model.base)}
        self.limits = limits_of(config)
        self.weights = config.model.model_dump(include={"dtype", "method", "lora_rank", "lora_alpha"})
        self.reward_limits = reward_limits(config, config.reward)
        # Which policy the present round samples from, and which one its fit starts from and compares with.
        self.suffix, self.proposal, self.reference = "", "sft", "sft"
        self.objectives = parse_objectives(config.objectives.models)
        self.weights_of_objectives = [config.objectives.own_weight, *(weight for _, weight in self.objectives)]
        self.has_gold_model = config.evaluation.gold == "reward_model"

    def build(self) -> Plan:
        profile = {**self.limits, "max_length": self.config.reward.max_length, "split": self.split}
        self.plan.add("length_profile", "length_profile", profile, digests=self.base | self.sft_data | self.preferences)
        self._add_sft()
        self._add_reward_training()
        if self.has_gold_model:
            self._add_gold_reward_training()
        self._add_policy()
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

    def _add(self, key: str, kind: str, config: dict[str, Any], *, needs: dict[str, str], **more: Any) -> str:
        """Add a stage of the present round. What it needs of the same round is named without the round."""
        of_round = {name: f"{stage}{self.suffix}" for name, stage in needs.items() if stage in _OF_A_ROUND}
        self.plan.add(f"{key}{self.suffix}", kind, config, needs={**needs, **of_round}, **more)
        return key

    def _add_pool(self) -> None:
        sampling = self.config.sampling
        shards = -(-self.counts["train_prompts"] // sampling.prompts_per_shard)
        work = f"{self.counts['train_prompts']} prompts × {sampling.num_candidates} candidates"
        self._add(
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
            needs={"policy": self.proposal},
            digests=self.prompts_data,
            shards=shards,
            work=work,
        )
        pairs = self.config.pairs
        by_reward = pairs.pair_source == "best_candidate" and pairs.best_by == "pointwise"
        if pairs.pair_source in {"rso_sample_rank", "above_threshold"} or by_reward or self.objectives:
            work += ", against a baseline" + (", both orders" if self.config.reward.order_average else "")
            self._add_scoring("scoring", {"reward_model": "reward_training"}, {}, shards, work)
        if self.objectives:
            self._add_objectives(shards, work)

    def _add_scoring(self, key: str, needs: dict[str, str], digests: dict[str, str], shards: int, work: str) -> None:
        needs = {**needs, "pool": "sampling"}
        self._add(key, "scoring", self.reward_limits, needs=needs, digests=digests, shards=shards, work=work)

    def _add_objectives(self, shards: int, work: str) -> None:
        """Add the scores of every further objective, and the average that takes the place of the rewards."""
        keys = {"scores_0": f"scoring{self.suffix}"}
        for number, (name, _) in enumerate(self.objectives, start=1):
            keys[f"scores_{number}"] = f"scoring_objective_{number}{self.suffix}"
            self._add_scoring(
                f"scoring_objective_{number}", {}, {"reward_model": self.data.model(name)}, shards, f"{work}, {name}"
            )
        self._add(
            "combined_rewards", "combined_rewards", {"weights": self.weights_of_objectives}, needs=keys,
            work=f"{len(keys)} objectives, normalised and averaged",
        )  # fmt: skip

    def _judges(self) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
        """Return settings, needs and digests of who decides games: ρ, or the average of all objectives."""
        if not self.objectives:
            return {}, {"reward_model": "reward_training"}, {}
        models = {f"reward_model_{i}": self.data.model(name) for i, (name, _) in enumerate(self.objectives, start=1)}
        needs = {"reward_model": "reward_training", "combined": "combined_rewards"}
        return {"weights": self.weights_of_objectives}, needs, models

    def _add_pairs(self) -> str:
        source = self.config.pairs.pair_source
        by_judge = self.config.pairs.label == "auto_sxs"
        # Pairs labelled by ρ keep the fingerprint that they have without a judge.
        judged = {"label": "auto_sxs", "judge": self._judge_settings()} if by_judge else {}
        judge = self._judge_digests() if by_judge else {}
        if source == "direct":
            return self._add(
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
            needs["scores"] = "combined_rewards" if self.objectives else "scoring"
        self._add(
            "rejection_sampling",
            "rejection_sampling",
            {**selection, "truncated": self.config.sampling.truncated, "seed": self.config.seed},
            needs=needs,
            work=f"{self.counts['train_prompts']} prompts, {self.config.sampling.num_candidates} → {selection['num_samples']}",
        )
        # A coin is a setting only where it is tossed: pairs labelled by ρ keep the fingerprint they had without it.
        coin = {"label": "coin_label"} if self.config.pairs.label == "coin_label" else {}
        settings, judges, models = ({}, {}, {}) if coin or by_judge else self._judges()
        return self._add(
            "pairs",
            "preference_pairs",
            {
                **self.reward_limits,
                "pair_source": "samples",
                "ranking": self.config.pairs.ranking,
                "seed": self.config.seed,
                **coin,
                **settings,
                **judged,
            },
            needs={"kept": "rejection_sampling", **judges},
            digests=models | judge,
            work=f"{self.counts['train_prompts']} prompts × {_games(self.config)} games",
        )

    def _add_targets(self) -> str:
        """Add the choice of new SFT targets among the candidates: the best one (RAFT), or all above a threshold (ReST)."""
        self._add_pool()
        pairs = self.config.pairs
        by = {"best_candidate": {"best_by"}, "above_threshold": {"threshold", "normalize"}}[pairs.pair_source]
        by_games = pairs.pair_source == "best_candidate" and pairs.best_by == "tournament"
        settings, judges, models = self._judges() if by_games else ({}, {}, {})
        needs = judges or {"scores": "combined_rewards" if self.objectives else "scoring"}
        return self._add(
            "targets",
            "candidate_targets",
            {
                **(self.reward_limits if by_games else {}),
                **settings,
                **pairs.model_dump(mode="json", include=by),
                "select": pairs.pair_source,
                "truncated": self.config.sampling.truncated,
                "seed": self.config.seed,
            },
            needs={"pool": "sampling", **needs},
            digests=models,
            work=f"{self.counts['train_prompts']} prompts × {self.config.sampling.num_candidates} candidates",
        )

    def _add_policy(self) -> None:
        """Add what makes the policy, if one is fitted: round after round, the last one under the plain names."""
        count = self.config.rounds.count if self.config.fitting.enabled else 0
        for number in range(1, count + 1):
            self.suffix = f"_round_{number}" if number < count else ""
            self._add_round()
            self.proposal = f"checkpoint_selection{self.suffix}"
            if self.config.rounds.reference == "moved":
                self.reference = self.proposal
        if count and self.config.evaluation.kl_prompts:
            self._add_checkpoint_figures()

    def _add_round(self) -> None:
        fitting = self.config.fitting
        if fitting.loss == "cross_entropy":
            self._add_fitting({"targets": self._add_targets()}, {})
        else:
            pairs = self._add_pairs()
            self._add(
                "reference_log_probs",
                "reference_log_probs",
                {**self.limits, "dtype": self.config.model.dtype, "batch_size": fitting.micro_batch_size or 8},
                needs={"policy": self.reference, "pairs": pairs},
                work="once per distinct response",
            )
            # Only slic reads the SFT targets, for its regulariser.
            digests = self.sft_data if fitting.loss == "slic" else {}
            self._add_fitting({"pairs": pairs, "reference": "reference_log_probs"}, digests)
        self._add_selection()

    def _add_fitting(self, needs: dict[str, str], digests: dict[str, str]) -> None:
        fitting = self.config.fitting
        unused = {"select_by", "enabled"} | (set() if fitting.loss == "slic" else {"delta", "regularizer"})
        training = fitting.model_dump(mode="json", exclude=unused)
        self._add(
            "policy_fitting",
            "policy_fitting",
            {**self.limits, **self.weights, "seed": self.config.seed, "training": training},
            needs={"policy": self.reference, **needs},
            digests=digests,
            work=f"{fitting.epochs:g} epochs, {fitting.batch_size} {'targets' if 'targets' in needs else 'pairs'} a step",
        )

    def _add_selection(self) -> None:
        fitting = self.config.fitting
        self._add(
            "checkpoint_selection",
            "checkpoint_selection",
            {
                **self._generation("validation", self.config.evaluation.max_validation_prompts),
                "reward": self.reward_limits,
                "select_by": fitting.select_by,
            },
            needs={"checkpoints": "policy_fitting", "reward_model": "reward_training"},
            digests=self.prompts_data,
            work=f"{fitting.num_checkpoints} checkpoints × {self.counts['validation_prompts']} validation prompts",
        )

    def _add_checkpoint_figures(self) -> None:
        evaluation, fitting = self.config.evaluation, self.config.fitting
        gold = {"gold_model": GOLD} if self.has_gold_model else {}
        self._add(
            "checkpoint_figures",
            "checkpoint_figures",
            {
                **self._generation("validation", evaluation.kl_prompts),
                # KL is of π_θ itself, whatever the evaluated responses are drawn with.
                "temperature": 1.0,
                "top_k": 0,
                "gold": evaluation.gold,
                **({"gold_reward": reward_limits(self.config, self.config.gold_reward)} if gold else {}),
                "bootstrap_draws": evaluation.bootstrap_draws,
            },
            needs={"checkpoints": "policy_fitting", "selection": "checkpoint_selection", "policy": "sft", **gold},
            digests=self.prompts_data,
            work=f"{fitting.num_checkpoints} checkpoints × {min(evaluation.kl_prompts, self.counts['validation_prompts'])} responses",
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

    def _best_of(self) -> dict[str, Any]:
        """Return the settings of best-of-N, none where every response is evaluated as it comes."""
        count = self.config.evaluation.best_of
        return {"best_of": count, "reward": self.reward_limits} if count > 1 else {}

    def _add_evaluation(self) -> None:
        evaluation = self.config.evaluation
        gold = {"gold_model": GOLD} if self.has_gold_model else {}
        fitted = "checkpoint_selection" if self.config.fitting.enabled else "sft"
        for key, policy in (("sft", "sft"), ("policy", fitted)):
            best_of = self._best_of() if key == "policy" else {}
            self.plan.add(
                f"generation_{key}",
                "generation",
                {**self._generation("test", evaluation.max_test_prompts), **best_of},
                needs={"policy": policy} | ({"reward_model": "reward_training"} if best_of else {}),
                digests=self.prompts_data,
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


def _games(config: RunConfig) -> int:
    kept = config.rejection_sampling.num_samples
    return kept // 2 if config.pairs.ranking == "first_round_rank" else kept - 1
