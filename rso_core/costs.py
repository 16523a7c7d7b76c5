"""What a system's training data costs for each prompt: decodes and comparisons, counted, and by the paper's Table 7.

With n_c candidates and n_d selected: RAFT n_c + n_c − 1 · ReST n_c + n_c · DPO and SLiC direct 0 + 0 · SLiC sample-rank
n_d + n_d − 1 · RSO n_c + (n_c + n_d/2). Counted are the summaries of the stages, as if the run had been made alone:
random samples need n_d decodes, though the pool they share has n_c. A comparison counts once whatever the orders
averaged; a game between identical texts is not put to the reward model and is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rso_core.config import RunConfig
from rso_core.objectives import parse_objectives

_EVALUATING = ("generation_policy", "win_rate_sft", "win_rate_policy")


@dataclass(frozen=True)
class Cost:
    """Decodes and comparisons for each prompt, and by Table 7; `selection_and_evaluation_comparisons` is of the whole run."""

    decodes: float
    comparisons: float
    formula: tuple[int, int]
    baseline_decodes: float
    reward_forwards: float
    selection_and_evaluation_comparisons: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the cost as JSON values."""
        return {**vars(self), "formula": list(self.formula)}


def cost_of(config: RunConfig, stages: Mapping[str, Mapping[str, Any]]) -> Cost | None:
    """Return the cost of a run from its finished stages' summaries by key, all rounds together.

    None while data is missing, and where a stage was done by a version that did not count it.
    """
    rounds = [*(f"_round_{number}" for number in range(1, config.rounds.count)), ""]
    others = sum(_comparisons(stages.get(f"checkpoint_selection{name}", {})) for name in rounds)
    others += sum(_comparisons(stages.get(key, {})) for key in _EVALUATING)
    if not config.fitting.enabled:
        return Cost(0.0, 0.0, (0, 0), 0.0, 0.0, others)
    try:
        found = [_of_round(config, stages, name) for name in rounds]
    except KeyError:  # a stage of an earlier version did not count it
        return None
    if None in found:
        return None
    sums = np.sum(np.array(found, dtype=np.float64), axis=0).tolist()
    decodes, comparisons = table_7(config)
    return Cost(sums[0], sums[1], (decodes * len(rounds), comparisons * len(rounds)), sums[2], sums[3], others)


def _of_round(
    config: RunConfig, stages: Mapping[str, Mapping[str, Any]], name: str
) -> tuple[float, float, float, float] | None:
    """Return decodes, comparisons, decodes of baselines and forward passes of rewards for each prompt of a round."""
    made = stages.get(f"targets{name}") or stages.get(f"pairs{name}")
    if made is None:
        return None
    if config.pairs.pair_source == "direct":
        return 0.0, 0.0, 0.0, 0.0
    pool, scored = stages[f"sampling{name}"], stages.get(f"scoring{name}", {})
    at_random = config.pairs.pair_source == "sft_sample_rank"
    decodes = stages[f"rejection_sampling{name}"]["accepted"] if at_random else pool["decodes"]
    # Only rewards are measured against a baseline.
    baselines = pool["baseline_decodes"] if scored else 0
    count = len(parse_objectives(config.objectives.models))
    further = (stages.get(f"scoring_objective_{number}{name}", {}) for number in range(1, count + 1))
    scorings = [scored, *further]
    comparisons = sum(one.get("comparisons", 0) for one in scorings) + made["comparisons"] * (1 + count)
    counted = (decodes, comparisons, baselines, sum(one.get("reward_forwards", 0) for one in scorings))
    return tuple(value / pool["prompts"] for value in counted)


def _comparisons(summary: Mapping[str, Any]) -> int:
    """Return the comparisons that a stage of selection or evaluation put to the reward model."""
    of_checkpoints = sum(checkpoint["win_rate"]["n"] for checkpoint in summary.get("checkpoints", ()))
    measured = (summary.get("proxy") or {}).get("n", 0)
    return int(of_checkpoints + measured + summary.get("selection_comparisons", 0))


def table_7(config: RunConfig) -> tuple[int, int]:
    """Return the decodes and comparisons for each prompt by the paper's formulas (Table 7).

    Where a setting has no row in the table (a coin labels, the best is found by points) the formula follows what is done.
    It is that of one objective: each further one adds its own comparisons to those counted.
    """
    made, kept = config.sampling.num_candidates, config.rejection_sampling.num_samples
    games = kept // 2 if config.pairs.ranking == "first_round_rank" else kept - 1
    asked = 0 if config.pairs.label == "coin_label" else games
    formulas = {
        "direct": (0, 0),
        "sft_sample_rank": (kept, asked),
        "rso_sample_rank": (made, made + asked),
        "best_candidate": (made, made - 1 if config.pairs.best_by == "tournament" else made),
        "above_threshold": (made, made),
    }
    return formulas[config.pairs.pair_source] if config.fitting.enabled else (0, 0)
