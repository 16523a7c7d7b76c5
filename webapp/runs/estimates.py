"""How long stages will take, from how long finished stages of the same kind took on this installation.

A kind's speed depends first of all on the model, so only stages of runs with the same base model count. What
was never measured here is not known, and the pages say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from rso_core.config import RunConfig, TrainingConfig
from rso_core.plan import Plan
from webapp.runs.models import RunStage, Stage, Status

_REMEMBERED = 200  # finished stages that count
_LOOKED_THROUGH = 2000  # the last ones of all base models, among which those are looked for


def work_units(config: RunConfig, plan: Plan) -> dict[str, float]:
    """Return how much work each stage of a plan is, by fingerprint: examples, candidates, prompts, comparisons."""
    counted = _units_by_key(config, plan.counts)
    plain = {stage.fingerprint: stage.key.partition("_round_")[0] for stage in plan.stages}
    return {fingerprint: counted[key] for fingerprint, key in plain.items() if key in counted}


def _units_by_key(config: RunConfig, counts: Mapping[str, int]) -> dict[str, float]:
    if "train_prompts" not in counts:
        return {}  # not the plan of a recipe
    prompts, tests = counts["train_prompts"], counts["test_prompts"]
    candidates = float(prompts * config.sampling.num_candidates)
    pairs = _training_pairs(config, counts)
    selected = config.fitting.num_checkpoints if config.fitting.select_by == "proxy_win_rate" else 1
    return {
        "sft": _trained(counts["sft_rows"], config.sft) if config.sft.enabled else 1.0,
        "reward_training": _trained(counts["preference_train_pairs"], config.reward),
        "gold_reward_training": _trained(counts.get("gold_train_pairs", 0), config.gold_reward),
        "sampling": candidates,
        "scoring": candidates * (2 if config.reward.order_average else 1),
        "rejection_sampling": float(prompts),
        "pairs": float(pairs),
        "targets": candidates,
        "reference_log_probs": float(pairs),
        "policy_fitting": _trained(pairs, config.fitting),
        "checkpoint_figures": float(
            config.fitting.num_checkpoints * min(config.evaluation.kl_prompts, counts["validation_prompts"])
        ),
        "checkpoint_selection": float(selected * counts["validation_prompts"]),
        **dict.fromkeys(("generation_sft", "win_rate_sft", "win_rate_policy"), float(tests)),
        "generation_policy": float(tests * config.evaluation.best_of),
        **dict.fromkeys(("auto_sxs_sft", "auto_sxs_policy"), float(tests * config.judge.samples)),
        "judge_accuracy": float(_judged_pairs(config, counts) * config.judge.samples),
        "report": float(tests),
    }


def _judged_pairs(config: RunConfig, counts: Mapping[str, int]) -> int:
    limit, there = config.judge.accuracy_pairs, counts["preference_test_pairs"]
    return min(limit, there) if limit else there


def _training_pairs(config: RunConfig, counts: Mapping[str, int]) -> int:
    """Return how many pairs or targets a policy will be fitted on, at most: identical texts make no pair."""
    if config.pairs.pair_source == "best_candidate":
        return counts["train_prompts"]
    if config.pairs.pair_source == "above_threshold":
        return counts["train_prompts"] * config.sampling.num_candidates
    if config.pairs.pair_source == "direct":
        return counts["preference_train_pairs"]
    kept = config.rejection_sampling.num_samples
    games = kept // 2 if config.pairs.ranking == "first_round_rank" else kept - 1
    return counts["train_prompts"] * games


def _trained(rows: int, training: TrainingConfig) -> float:
    """Return how many rows a training passes over."""
    limit = training.max_steps * training.batch_size
    return min(rows * training.epochs, limit) if limit else rows * training.epochs


@dataclass(frozen=True)
class Speed:
    """Seconds for one unit of a kind's work: the median over `stages` finished stages."""

    seconds_per_unit: float
    stages: int


def measured_speeds(base: str) -> dict[str, Speed]:
    """Return the speed of each kind of stage, measured in finished runs that started from the same base model."""
    lately = Stage.objects.filter(
        status=Status.DONE, work_units__gt=0, started__isnull=False, finished__isnull=False
    ).order_by("-finished")[:_LOOKED_THROUGH]
    rows = (
        RunStage.objects.filter(run__config__model__base=base, reused=False, stage__in=lately.values("pk"))
        .order_by("-stage__finished")
        .values_list("stage__kind", "stage__work_units", "stage__started", "stage__finished")
    )  # fmt: skip
    found: dict[str, list[float]] = {}
    for kind, units, started, finished in rows[:_REMEMBERED]:
        if units and started and finished:
            found.setdefault(kind, []).append((finished - started).total_seconds() / units)
    return {kind: Speed(median(values), len(values)) for kind, values in found.items()}


def expected_seconds(kind: str, units: float | None, speeds: Mapping[str, Speed]) -> float | None:
    """Return how long a stage is expected to take, or None when that is not known yet."""
    speed = speeds.get(kind)
    return None if speed is None or units is None else speed.seconds_per_unit * units
