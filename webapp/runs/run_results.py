"""What came out of a run, as far as it has come: rates, the paired difference, acceptance, side-by-sides."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rso_core.config import RunConfig
from rso_core.costs import Cost, cost_of
from rso_core.errors import UserError
from webapp.runs.artifacts import store
from webapp.runs.models import Run, RunStage, Status

# The recipe's short name and colour (the paper's systems, ui.md), by pair source and loss.
_SYSTEMS = {
    ("rso_sample_rank", "sigmoid_norm"): ("RSO", "--rso"),
    ("rso_sample_rank", "hinge"): ("RSO", "--rso"),
    ("rso_sample_rank", "hinge_norm"): ("RSO", "--rso"),
    ("direct", "sigmoid_norm"): ("DPO", "--dpo"),
    ("direct", "hinge"): ("SLiC-direct", "--slic"),
    ("sft_sample_rank", "hinge"): ("SLiC", "--slic"),
    ("direct", "slic"): ("SLiC-direct", "--slic"),
    ("sft_sample_rank", "slic"): ("SLiC", "--slic"),
    ("best_candidate", "cross_entropy"): ("RAFT", "--raft"),
    ("above_threshold", "cross_entropy"): ("ReST", "--rest"),
}
_METRICS = {"proxy": "Proxy win rate", "gold": "Gold win rate", "auto_sxs": "AutoSxS"}
DOUBT = "judge not better than chance"
_JUDGED = {"auto_sxs_sft": "SFT", "auto_sxs_policy": "policy"}
_TERMS = {"proxy": "proxy_win_rate", "gold": "gold_win_rate", "auto_sxs": "auto_sxs"}  # in the glossary


@dataclass(frozen=True)
class System:
    """The system of the paper that a run makes: RSO, DPO, SLiC, or the cell of Table 1 that it is."""

    name: str
    colour: str
    loss: str
    pair_source: str


@dataclass(frozen=True)
class Rate:
    """One metric of SFT and policy with the paired difference; every part is {value, low, high, n}."""

    key: str
    title: str
    sft: Mapping[str, Any]
    policy: Mapping[str, Any]
    difference: Mapping[str, Any]
    doubtful: bool = False  # measured by a judge that is not better than chance

    @property
    def term(self) -> str:
        """Return the metric's name in the glossary."""
        return _TERMS[self.key]

    @property
    def verdict(self) -> str:
        """Return "clear" when the 95 % interval of the paired difference excludes 0."""
        if self.doubtful:
            return DOUBT
        return "clear" if self.difference["low"] > 0 or self.difference["high"] < 0 else "not distinguishable"

    @property
    def is_better(self) -> bool:
        """Return whether the policy is clearly above the SFT model."""
        return bool(self.difference["low"] > 0)


@dataclass(frozen=True)
class Results:
    """What the finished stages of a run say. Parts whose stage has not finished are empty."""

    rates: list[Rate] = field(default_factory=list)
    sft: Mapping[str, Any] = field(default_factory=dict)  # win rate of π_sft: known before the policy's
    length: Mapping[str, float] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)
    judged: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)  # of SFT and policy: what AutoSxS counted
    judge: Mapping[str, Any] = field(default_factory=dict)  # the judge on human pairs
    gold_reward: Mapping[str, Any] = field(default_factory=dict)
    acceptance: Mapping[str, Any] = field(default_factory=dict)
    pool: Mapping[str, Any] = field(default_factory=dict)
    pairs: Mapping[str, Any] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    targets: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost | None = None
    checkpoints: list[Mapping[str, Any]] = field(default_factory=list)
    side_by_sides: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is known yet."""
        return not (self.rates or self.sft or self.reward or self.acceptance or self.pool or self.selection)

    @property
    def divergence(self) -> Mapping[str, Any] | None:
        """Return KL(π_θ ‖ π_sft) of the checkpoint that was kept, in nats a response."""
        kept = self.selection.get("selected_step")
        return next((item["kl"] for item in self.checkpoints if item["step"] == kept), None)

    @property
    def length_ratio(self) -> float | None:
        """Return how long the policy's responses are beside those of π_sft, in characters."""
        before = self.length.get("mean_chars_sft")
        return self.length["mean_chars_policy"] / before if before else None


def system_of(config: Mapping[str, Any]) -> System:
    """Return which of the paper's systems a run's configuration makes."""
    source, loss = config["pairs"]["pair_source"], config["fitting"]["loss"]
    words = source.replace("_", "-")
    # A run of an earlier version of the schema has no such settings.
    if not config["fitting"].get("enabled", True):
        best_of = config["evaluation"].get("best_of", 1)
        return System(f"best of {best_of}" if best_of > 1 else "SFT", "--sft", "no fit", "no pairs")
    if config["pairs"].get("label", "reward_model") == "coin_label":
        return System("coin labels", "--coin", loss.replace("_", "-"), f"{words}, labelled by a coin")
    name, colour = _SYSTEMS.get((source, loss), (words, "--raft"))
    return System(name, colour, loss.replace("_", "-"), words)


def run_results(run: Run) -> Results:
    """Return what is known of a run, in one query and, once there is a report, one file."""
    done = RunStage.objects.filter(run=run, stage__status=Status.DONE)
    rows = done.values_list("key", "stage__summary", "stage__digest")
    stages = {key: (summary, digest) for key, summary, digest in rows}
    summaries = {key: summary for key, (summary, _) in stages.items()}
    report = summaries.get("report", {})
    return Results(
        rates=_rates(report),
        sft=summaries.get("win_rate_sft", {}),
        length=report.get("length_change", {}),
        reward=summaries.get("reward_training", {}),
        judged=[(word, summaries[key]) for key, word in _JUDGED.items() if key in summaries],
        judge=summaries.get("judge_accuracy", {}),
        gold_reward=summaries.get("gold_reward_training", {}),
        acceptance=summaries.get("rejection_sampling", {}),
        pool=summaries.get("sampling", {}),
        pairs=summaries.get("pairs", {}),
        selection=summaries.get("checkpoint_selection", {}),
        policy=summaries.get("win_rate_policy", {}),
        targets=summaries.get("targets", {}),
        checkpoints=summaries.get("checkpoint_figures", {}).get("checkpoints", []),
        cost=cost_of(RunConfig.model_validate(run.config), summaries),
        side_by_sides=list(side_by_sides(stages["report"][1])) if "report" in stages else [],
    )


def _rates(report: Mapping[str, Any]) -> list[Rate]:
    return [
        Rate(key, title, report["sft"][key], report["policy"][key], report["difference"][key], is_doubtful(key, report))
        for key, title in _METRICS.items()
        if report and all(report[part].get(key) for part in ("sft", "policy", "difference"))
    ]


def is_doubtful(key: str, report: Mapping[str, Any]) -> bool:
    """Return whether a metric of a report says nothing, for DOUBT."""
    return key == "auto_sxs" and not report.get("judge", {}).get("better_than_chance")


def side_by_sides(digest: str) -> tuple[Mapping[str, Any], ...]:
    """Return the examples of a report; none while its file is not in the store."""
    try:
        return _read_side_by_sides(store().url, digest)
    except (UserError, FileNotFoundError):
        return ()


@lru_cache(maxsize=64)
def _read_side_by_sides(_: str, digest: str) -> tuple[Mapping[str, Any], ...]:
    # An exception is not remembered, so a file that comes back is found.
    path = store().files(digest, "report.json")[0]
    return tuple(json.loads(path.read_text(encoding="utf-8"))["side_by_sides"])


def results_as_json(results: Results) -> dict[str, Any]:
    """Return the figures of a run for programs."""
    return {
        "sft": {rate.key: rate.sft for rate in results.rates},
        "policy": {rate.key: rate.policy for rate in results.rates},
        "difference": {rate.key: {**rate.difference, "verdict": rate.verdict} for rate in results.rates},
        "length_change": dict(results.length),
        "reward_model": dict(results.reward),
        "gold_reward_model": dict(results.gold_reward),
        "auto_sxs": {word: dict(counted) for word, counted in results.judged},
        "judge": dict(results.judge),
        "acceptance": dict(results.acceptance),
        "length_controlled": dict(results.policy.get("length_controlled", {})),
        "variety": {"sft": results.sft.get("variety"), "policy": results.policy.get("variety")},
        "checkpoints": list(results.checkpoints),
        "cost": results.cost.as_dict() if results.cost else None,
    }
