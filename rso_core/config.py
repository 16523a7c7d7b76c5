"""The one definition of a run's configuration: form, YAML, API and worker derive from it.

Defaults are the paper's (arXiv:2309.06657); descriptions are the help texts people read. Names are the
paper's: `beta` is the temperature of the target policy (eq. 4), `gamma` the slope of the loss (eq. 8-10);
they are two separate settings. Must not import torch, transformers or datasets.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator

from rso_core.errors import UserError
from rso_core.objectives import parse_objectives
from rso_core.vocabulary import Task
from rso_core.yaml_text import read_yaml

SCHEMA_VERSION = 1

LossName = Literal["sigmoid_norm", "hinge", "hinge_norm"]
FittingLoss = Literal["sigmoid_norm", "hinge", "hinge_norm", "slic", "cross_entropy"]
PairSource = Literal["direct", "sft_sample_rank", "rso_sample_rank"]
# Without pairs: chosen candidates become targets of cross-entropy, as in RAFT and ReST.
TargetSource = Literal["best_candidate", "above_threshold"]
TrainingSource = Literal["direct", "sft_sample_rank", "rso_sample_rank", "best_candidate", "above_threshold"]
Ranking = Literal["first_round_rank", "tournament_rank"]

Fraction = Annotated[float, Field(gt=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Settings(BaseModel):
    """Base of every part: immutable, unknown names refused, NaN and infinity refused unless allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Settings):
    """Which data a run reads and how conversations are split."""

    preferences: str = Field(description="Preference dataset D_hf: human triplets (prompt, chosen, rejected).")
    sft: str = Field(
        description="SFT dataset: prompts with targets. Its training prompts are sampled from; its test targets are the reference of every win rate."
    )
    prompts: str = Field(
        "",
        description="SFT dataset whose prompts are sampled from and whose test targets are the reference, where it is another than the one π_sft is trained on (Table 6); empty: the SFT dataset. Its training targets are not used.",
    )
    split_seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of the split. A conversation root is in one split, in every dataset of the run.",
    )
    validation_fraction: Fraction = Field(0.1, description="Share of conversations used to select the checkpoint.")
    test_fraction: Fraction = Field(
        0.1, description="Share of conversations used for the reported figures, seen by nothing else."
    )
    max_prompt_tokens: PositiveInt = Field(
        512, description="Longer prompts are cut from the left inside their body; the template is kept."
    )
    max_response_tokens: PositiveInt = Field(
        128,
        description="Longest response to sample. Longer responses in the data are never cut: their rows are left out and counted.",
    )

    @model_validator(mode="after")
    def _leave_room_for_training(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            message = (
                f"`validation_fraction` + `test_fraction` must be below 1 so that training prompts remain, got "
                f"{self.validation_fraction} + {self.test_fraction}; lower one of them"
            )
            raise ValueError(message)
        return self


class ModelConfig(Settings):
    """The pretrained model to start from and how its weights are held."""

    base: str = Field(
        description="Registered model (or, on the command line, a folder or GGUF file) that becomes the policy."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of weights and arithmetic. auto: bfloat16 on a GPU, float32 on a CPU."
    )
    method: Literal["full", "lora"] = Field(
        "full",
        description="full: every weight is trained, as in the paper. lora: low-rank adapters, merged when a stage ends.",
    )
    lora_rank: int = Field(16, ge=1, le=1024, description="Rank of the adapters (lora only).")
    lora_alpha: float = Field(32.0, gt=0, le=4096, description="Scale of the adapters (lora only).")
    prompt_template: Literal["auto", "chat", "plain"] = Field(
        "auto",
        description="How a prompt is written for the policy. auto: the tokenizer's chat template for dialogue where there is one, else plain text.",
    )


class TrainingConfig(Settings):
    """What every training shares."""

    optimizer: Literal["adafactor", "adamw"] = Field(
        "adafactor", description="Adafactor with parameter scaling and a constant rate, as in the paper."
    )
    learning_rate: Rate = Field(1e-5, description="Constant learning rate.")
    batch_size: PositiveInt = Field(32, description="Examples (in policy fitting and reward training: pairs) per step.")
    micro_batch_size: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Examples per forward pass at most; changes memory and speed, not the step. 0: as many tokens as free memory holds, found by trying the longest examples first.",
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compute layers again in the backward pass instead of keeping what they made: less memory, a third more time. auto: when the longest example does not fit otherwise.",
    )
    epochs: float = Field(1.0, gt=0, le=1000, description="Passes over the training rows.")
    max_steps: int = Field(
        0, ge=0, le=10_000_000, description="Stop after this many steps; 0 means no limit beyond the epochs."
    )
    max_gradient_norm: float = Field(
        0.0, ge=0, le=1e6, description="Clip the gradient to this norm; 0 means no clipping."
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout while training. Off by default so that the step-0 loss can be checked."
    )
    checkpoint_every: PositiveInt = Field(50, description="Steps between resumable checkpoints.")


class SftConfig(TrainingConfig):
    """Supervised fine-tuning of the base model into π_sft."""

    enabled: bool = Field(True, description="Off: the base model itself is π_sft.")


class RewardConfig(TrainingConfig):
    """The pairwise text-to-text reward-ranking model ρ_ψ."""

    start_from: Literal["base", "sft", "model"] = Field(
        "base", description="Weights to start from: the base model, π_sft, or the model named below."
    )
    model: str = Field("", description="Registered model to start from (start_from = model).")
    max_length: PositiveInt = Field(
        1024,
        description="Longest context with both responses, in tokens. The context is cut from the left; responses never are.",
    )
    order_average: bool = Field(True, description="Average the logits of both orders. The paper uses one order.")

    @model_validator(mode="after")
    def _model_named(self) -> Self:
        if (self.start_from == "model") != bool(self.model):
            message = f"`model` must be named exactly when `start_from` is model, got start_from={self.start_from}, model={self.model!r}"
            raise ValueError(message)
        return self


class GoldRewardConfig(TrainingConfig):
    """The gold reward model: measures, and is never used in training (evaluation.gold = reward_model)."""

    model: str = Field("", description="Registered model the gold reward model starts from; empty: the base model.")
    preferences: str = Field("", description="Its own preference dataset; empty: D_hf of the run.")
    share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of D_hf's training conversations that the gold reward model alone is trained on: the training reward model and direct pairs go without them. 0: both are trained on all.",
    )
    max_length: PositiveInt = Field(1024, description="Longest context with both responses, in tokens.")
    order_average: bool = Field(True, description="Average the logits of both orders.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.preferences and self.share:
            message = f"`share` is a share of the run's own preferences: give `preferences` or `share`, got {self.preferences!r} and {self.share}"
            raise ValueError(message)
        return self


class ObjectivesConfig(Settings):
    """Several reward objectives: the weighted average of their normalised rewards decides what is kept and who wins."""

    models: str = Field(
        "",
        description="Further reward models with their weights, as name=weight, name=weight; empty: the run's own ρ alone.",
    )
    own_weight: float = Field(1.0, gt=0, le=1_000_000, description="Weight of the run's own ρ beside them.")

    @model_validator(mode="after")
    def _readable(self) -> Self:
        try:
            parse_objectives(self.models)
        except UserError as error:
            message = f"`models`: {error}"
            raise ValueError(message) from error
        return self


class SamplingConfig(Settings):
    """Candidates from π_sft. Every field is passed explicitly; a model's generation_config never overrides one."""

    endpoint: str = Field(
        "",
        description="Allowed endpoint whose model gives the candidates in the place of π_sft, for a policy that another engine serves; empty: π_sft.",
    )
    num_candidates: int = Field(64, ge=2, le=4096, description="Candidates per prompt.")
    temperature: float = Field(0.7, gt=0, le=10, description="Sampling temperature.")
    top_k: int = Field(
        40, ge=0, le=100_000, description="Sample among the k likeliest tokens; 0 means all (untruncated)."
    )
    max_prompts: int = Field(
        0, ge=0, le=10_000_000, description="Use this many training prompts, drawn by seed; 0 means all."
    )
    truncated: Literal["keep", "exclude"] = Field(
        "keep",
        description="Candidates that hit the length limit without end-of-sequence: keep (share shown) or exclude.",
    )
    prompts_per_shard: int = Field(32, ge=1, le=100_000, description="Prompts per durable piece of work.")
    batch_size: PositiveInt = Field(
        256,
        description="Sequences decoded at once (fewer where memory is short), or comparisons of reward.max_length tokens scored at once.",
    )


class RejectionSamplingConfig(Settings):
    """Statistical rejection sampling (Algorithm 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)

    beta: float = Field(
        0.5,
        ge=0,
        description="Temperature β of the target policy: 0 keeps the best, infinity draws uniformly. Not the slope of the loss.",
    )
    num_samples: int = Field(8, ge=2, le=4096, description="Candidates kept per prompt.")

    @field_serializer("beta", when_used="json")
    def _infinity_as_text(self, beta: float) -> float | str:
        return beta if math.isfinite(beta) else "inf"  # JSON has no infinity


class PairsConfig(Settings):
    """What the policy is fitted on: preference pairs, or (with the loss cross_entropy) chosen candidates."""

    pair_source: TrainingSource = Field(
        "rso_sample_rank",
        description="direct: D_hf as it is. sft_sample_rank: random samples of π_sft, labelled by ρ. rso_sample_rank: samples kept by rejection sampling, labelled by ρ. Without pairs, for cross_entropy: best_candidate (RAFT) and above_threshold (ReST).",
    )
    ranking: Ranking = Field(
        "first_round_rank",
        description="first_round_rank: n/2 disjoint pairs. tournament_rank: winners go on, n − 1 games.",
    )
    label: Literal["reward_model", "coin_label", "auto_sxs"] = Field(
        "reward_model",
        description="Who decides the games between samples: ρ (direct pairs keep the people's labels), a coin (coin_label), the control that shows what the labels are worth, or the AutoSxS judge, which labels direct pairs anew.",
    )
    best_by: Literal["tournament", "pointwise"] = Field(
        "tournament",
        description="How best_candidate finds the best of all candidates: n − 1 games labelled by ρ, as in the paper, or the highest reward r_ψ.",
    )
    threshold: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.7, description="above_threshold takes the candidates whose normalised reward is higher than this."
    )
    normalize: Literal["per_prompt", "global"] = Field(
        "per_prompt",
        description="above_threshold scales rewards to [0, 1] between the lowest and the highest of the prompt, or of all prompts.",
    )


class FittingConfig(TrainingConfig):
    """Policy fitting."""

    enabled: bool = Field(
        True, description="Off: nothing is fitted and π_sft itself is evaluated, for best-of-N with evaluation.best_of."
    )
    loss: FittingLoss = Field(
        "sigmoid_norm",
        description="sigmoid_norm (eq. 8) is DPO's loss; hinge (eq. 9) needs no reference; hinge_norm (eq. 10) is the paper's; slic (eq. 1) is hinge with margin δ and a regulariser; cross_entropy is for RAFT and ReST. Elsewhere: TRL `sigmoid` = sigmoid_norm, TRL `hinge` and torchtune `RSOLoss` = hinge_norm.",
    )
    gamma: float = Field(
        0.05,
        gt=0,
        le=1000,
        description="Slope γ of the loss (DPO's beta). Not the temperature β of rejection sampling.",
    )
    delta: float = Field(
        0.0, ge=0, le=100_000, description="Margin δ of the loss slic (eq. 1), in nats; 0 means 1/γ, as in the paper."
    )
    regularizer: float = Field(
        0.0, ge=0, le=100_000,
        description="Weight λ of slic's regulariser −log π_θ(y_ref|x) (eq. 1). y_ref is the prompt's SFT target, or the chosen response where there is none.",
    )  # fmt: skip
    num_checkpoints: int = Field(2, ge=1, le=100, description="Evenly spaced checkpoints to select from.")
    select_by: Literal["proxy_win_rate", "last"] = Field(
        "proxy_win_rate",
        description="Keep the checkpoint with the highest proxy win rate on validation prompts, or the last.",
    )


class RoundsConfig(Settings):
    """Several rounds: the fitted policy becomes the proposal of the next pool of candidates."""

    count: int = Field(1, ge=1, le=10, description="Rounds of sampling and fitting; 1 is the paper's.")
    reference: Literal["kept", "moved"] = Field(
        "kept",
        description="Where each fit starts and what its loss compares with: π_sft in every round (kept), or the policy of the round before (moved).",
    )


class EvaluationConfig(Settings):
    """What is measured, on test prompts only."""

    max_validation_prompts: int = Field(
        0, ge=0, le=1_000_000, description="Validation prompts for selecting the checkpoint; 0 means all."
    )
    max_test_prompts: int = Field(
        0, ge=0, le=1_000_000, description="Test prompts for the reported figures; 0 means all."
    )
    temperature: float = Field(0.7, gt=0, le=10, description="Temperature of the evaluated responses.")
    top_k: int = Field(40, ge=0, le=100_000, description="Top-k of the evaluated responses; 1 is greedy.")
    kl_prompts: int = Field(
        64,
        ge=0,
        le=1_000_000,
        description="Validation prompts on which the divergence from π_sft is measured at every checkpoint, beside proxy and gold; 0 leaves these figures out.",
    )
    best_of: int = Field(
        1, ge=1, le=4096,
        description="Responses sampled for each test prompt, of which the one with the highest reward is evaluated (best-of-N); 1 means no choice.",
    )  # fmt: skip
    gold: Literal["none", "mini_tldr", "reward_model"] = Field(
        "none",
        description="mini_tldr: exact gold reward of the built-in task. reward_model: a gold reward model of its own, as set in gold_reward.",
    )
    bootstrap_draws: int = Field(2000, ge=200, le=100_000, description="Bootstrap draws of the 95 % intervals.")


class JudgeConfig(Settings):
    """AutoSxS: a few-shot language model judges responses in both orders, several times each."""

    backend: Literal["none", "model", "endpoint"] = Field(
        "none",
        description="none: no AutoSxS. model: a registered model judges. endpoint: an OpenAI-compatible endpoint that an admin has allowed.",
    )
    model: str = Field("", description="Registered model that judges (backend = model).")
    endpoint: str = Field("", description="Name of the endpoint that judges (backend = endpoint).")
    few_shot: str = Field(
        "",
        max_length=50_000,
        description="Few-shot prompt as YAML: instruction, context, response, examples. Empty: the product's own for the task (rso_core/few_shot).",
        json_schema_extra={"multiline": True},
    )
    samples: int = Field(
        8, ge=4, le=64, multiple_of=2, description="Answers to each comparison, half of them with A and B exchanged."
    )
    temperature: float = Field(0.7, gt=0, le=10, description="Temperature of the judge's answers.")
    top_k: int = Field(40, ge=0, le=100_000, description="Top-k of the judge's answers; 0 means all.")
    max_tokens: PositiveInt = Field(
        160, description="Longest answer of the judge, in tokens; what is cut off holds no choice."
    )
    accuracy_pairs: int = Field(
        200,
        ge=0,
        le=1_000_000,
        description="Held-out human pairs the judge is measured on before its figures count; 0 means all.",
    )

    @model_validator(mode="after")
    def _judge_named(self) -> Self:
        for kind in ("model", "endpoint"):
            name = getattr(self, kind)
            if (self.backend == kind) != bool(name):
                message = f"`{kind}` must be named exactly when `backend` is {kind}, got backend={self.backend}, {kind}={name!r}"
                raise ValueError(message)
        return self


class RunConfig(Settings):
    """One run: everything from preference data to an evaluated policy."""

    name: str = Field(min_length=1, max_length=120, description="What you will recognise this run by.")
    task: Task = Field(description="Selects the templates of policy and reward model.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random in the run except the split.")
    data: DataConfig
    model: ModelConfig
    sft: SftConfig = SftConfig()
    reward: RewardConfig = RewardConfig()
    gold_reward: GoldRewardConfig = GoldRewardConfig()
    objectives: ObjectivesConfig = ObjectivesConfig()
    sampling: SamplingConfig = SamplingConfig()
    rejection_sampling: RejectionSamplingConfig = RejectionSamplingConfig()
    pairs: PairsConfig = PairsConfig()
    fitting: FittingConfig = FittingConfig()
    rounds: RoundsConfig = RoundsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    judge: JudgeConfig = JudgeConfig()

    @model_validator(mode="after")
    def _labeller_is_there(self) -> Self:
        if self.pairs.label == "auto_sxs" and self.judge.backend == "none":
            message = (
                "`pairs.label` is auto_sxs, and there is no judge: set `judge.backend` to model or endpoint and name it"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _enough_candidates(self) -> Self:
        if self.rejection_sampling.num_samples > self.sampling.num_candidates:
            message = (
                f"`rejection_sampling.num_samples` must be at most `sampling.num_candidates`, got "
                f"{self.rejection_sampling.num_samples} of {self.sampling.num_candidates}"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _rounds_sample(self) -> Self:
        if self.rounds.count > 1 and (self.pairs.pair_source == "direct" or not self.fitting.enabled):
            message = (
                f"`rounds.count` above 1 needs candidates to sample again and a fit: pairs.pair_source other than direct and "
                f"fitting.enabled, got {self.rounds.count} rounds of {self.pairs.pair_source}"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _loss_fits_what_is_fitted_on(self) -> Self:
        source, loss = self.pairs.pair_source, self.fitting.loss
        if (source in get_args(TargetSource)) != (loss == "cross_entropy"):
            message = (
                f"`fitting.loss` is cross_entropy exactly where `pairs.pair_source` chooses candidates "
                f"({' or '.join(get_args(TargetSource))}), got {loss} with {source}; change one of them"
            )
            raise ValueError(message)
        return self


# The systems of the paper, and two controls, that a form offers first: what differs from the defaults.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "RSO": {"pairs": {"pair_source": "rso_sample_rank"}, "fitting": {"loss": "sigmoid_norm"}},
    "DPO": {"pairs": {"pair_source": "direct"}, "fitting": {"loss": "sigmoid_norm"}},
    "SLiC": {"pairs": {"pair_source": "sft_sample_rank", "ranking": "tournament_rank"}, "fitting": {"loss": "hinge"}},
    "SLiC direct": {"pairs": {"pair_source": "direct"}, "fitting": {"loss": "hinge"}},
    "SLiC regularised": {
        "pairs": {"pair_source": "sft_sample_rank"},
        "fitting": {"loss": "slic", "regularizer": 5},
    },
    "RAFT": {"pairs": {"pair_source": "best_candidate"}, "fitting": {"loss": "cross_entropy"}},
    "ReST": {"pairs": {"pair_source": "above_threshold"}, "fitting": {"loss": "cross_entropy"}},
    "Coin labels": {
        "pairs": {"pair_source": "rso_sample_rank", "label": "coin_label"},
        "fitting": {"loss": "sigmoid_norm"},
    },
    "Best of N": {"fitting": {"enabled": False}, "evaluation": {"best_of": 64}},
}


def describe_validation_error(error: ValidationError) -> str:
    """Return a pydantic error as sentences: which field, what is wrong, what was received."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "configuration"
        received = "" if item["type"] == "missing" else f" (received {item['input']!r})"
        lines.append(f"{where}: {item['msg'].removeprefix('Value error, ')}{received}")
    return "\n".join(lines)


def recipe_values(text: str) -> dict[str, Any]:
    """Return the settings written in YAML (or JSON), right or wrong. Raises UserError when it is no mapping."""
    try:
        values = read_yaml(text)
    except yaml.YAMLError as error:
        message = f"the recipe is not valid YAML: {error}. Mend that line and load it again"
        raise UserError(message) from error
    if not isinstance(values, dict):
        message = f"a recipe is a mapping of settings (name, task, data, model, …), received {type(values).__name__}"
        raise UserError(message)
    return values


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's settings with those of the preset that it names (`preset: RAFT`) below. Raises UserError."""
    rest = dict(values)
    if "preset" not in rest:
        return rest
    name = rest.pop("preset")
    if name not in PRESETS:
        message = f"`preset` must be one of {', '.join(PRESETS)}, received {name!r}"
        raise UserError(message)
    return merged(PRESETS[name], rest)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings in which `above` replaces what `below` says, setting by setting."""
    found = dict(below)
    for name, value in above.items():
        old = found.get(name)
        found[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


def parse_run_config(text: str) -> RunConfig:
    """Return the configuration written in YAML (or JSON). Raises UserError naming every wrong field."""
    return checked_run_config(with_preset(recipe_values(text)))


def checked_run_config(values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of these settings. Raises UserError naming every wrong field."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(describe_validation_error(error)) from error


def load_run_config(path: Path) -> RunConfig:
    """Return the configuration in the recipe file at `path`.

    `extends: other.yaml` (a path from the recipe's folder) gives the settings that the recipe does not name.
    """
    values = with_preset(recipe_values(path.read_text(encoding="utf-8")))
    seen = {path.resolve()}
    while "extends" in values:
        path = path.parent / str(values.pop("extends"))
        if path.resolve() in seen:
            message = f"the recipe {path} extends itself; remove `extends` from one of the files"
            raise UserError(message)
        seen.add(path.resolve())
        values = merged(with_preset(recipe_values(path.read_text(encoding="utf-8"))), values)
    return checked_run_config(values)


def dump_run_config(config: RunConfig) -> str:
    """Return `config` as YAML that `parse_run_config` reads back to the same value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
