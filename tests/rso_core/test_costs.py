"""Costs of every system against Table 7, counted in runs on toy data."""

from typing import Any

import pytest

from rso_core.config import RunConfig
from rso_core.costs import cost_of, table_7
from rso_core.plan import Plan
from rso_core.protocol import add_summaries
from tests.rso_core.chain import Chain, toy_config

CROSS_ENTROPY = {"loss": "cross_entropy"}
# The paper's variant of each system, and its row of Table 7 with n_c = 6 candidates of which n_d = 4 are selected.
SYSTEMS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "RAFT": ({"pairs": {"pair_source": "best_candidate"}, "fitting": CROSS_ENTROPY}, (6, 6 - 1)),
    "ReST": ({"pairs": {"pair_source": "above_threshold"}, "fitting": CROSS_ENTROPY}, (6, 6)),
    "DPO": ({"pairs": {"pair_source": "direct"}}, (0, 0)),
    "SLiC direct": ({"pairs": {"pair_source": "direct"}, "fitting": {"loss": "hinge"}}, (0, 0)),
    "SLiC sample-rank": (
        {"pairs": {"pair_source": "sft_sample_rank", "ranking": "tournament_rank"}, "fitting": {"loss": "hinge"}},
        (4, 4 - 1),
    ),
    "RSO": ({}, (6, 6 + 4 // 2)),
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("costs"))


def summaries(chain: Chain, plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        stage.key: add_summaries(chain.summaries[stage.fingerprint])
        for stage in plan.stages
        if stage.fingerprint in chain.summaries
    }


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_counters_of_a_run_are_the_formulas_of_table_7(chain: Chain, system: str) -> None:
    parts, formula = SYSTEMS[system]
    config = toy_config(**parts)
    plan = chain.run(config)
    found = summaries(chain, plan)
    cost = cost_of(config, found)

    assert cost is not None
    assert table_7(config) == cost.formula == formula
    assert cost.decodes == formula[0]
    # A game between identical texts is decided without the reward model: the toy's short texts have some.
    made = found.get("targets") or found["pairs"]
    identical = made.get("dropped_ties", 0) / plan.counts["train_prompts"]
    assert cost.comparisons + identical == pytest.approx(formula[1])
    assert identical < 1
    scored = system in {"ReST", "RSO"}
    assert cost.baseline_decodes == scored
    assert cost.reward_forwards == (12 if scored else 0)  # both orders


def test_selection_and_evaluation_are_counted_beside_and_not_within(chain: Chain) -> None:
    config = toy_config()
    plan = chain.run(config)
    cost = cost_of(config, summaries(chain, plan))

    validation, test = plan.counts["validation_prompts"], plan.counts["test_prompts"]
    assert cost is not None
    assert cost.selection_and_evaluation_comparisons == 2 * validation + 2 * test


def test_best_of_n_costs_no_training_data_and_n_comparisons_for_each_test_prompt(chain: Chain) -> None:
    config = toy_config(fitting={"enabled": False}, evaluation={"best_of": 3})
    plan = chain.run(config)
    cost = cost_of(config, summaries(chain, plan))

    assert cost is not None
    assert (cost.decodes, cost.comparisons, cost.formula) == (0, 0, (0, 0))
    assert cost.selection_and_evaluation_comparisons == (3 + 2) * plan.counts["test_prompts"]


def test_a_run_without_training_data_has_no_cost_yet() -> None:
    assert cost_of(toy_config(), {"sampling": {"prompts": 3}}) is None


def test_a_run_whose_stages_did_not_count_has_no_cost() -> None:
    earlier = {"sampling": {"prompts": 3}, "scoring": {}, "rejection_sampling": {}, "pairs": {"comparisons": 12}}
    assert cost_of(toy_config(), earlier) is None


@pytest.mark.parametrize(
    ("parts", "formula"),
    [
        ({"pairs": {"label": "coin_label"}}, (64, 64)),
        ({"pairs": {"ranking": "tournament_rank"}}, (64, 64 + 7)),
        ({"pairs": {"pair_source": "best_candidate", "best_by": "pointwise"}, "fitting": CROSS_ENTROPY}, (64, 64)),
    ],
)
def test_what_has_no_row_in_table_7_is_counted_as_it_is_done(parts: dict[str, Any], formula: tuple[int, int]) -> None:
    config = toy_config(sampling={"num_candidates": 64}, rejection_sampling={"num_samples": 8}, **parts)
    assert isinstance(config, RunConfig)
    assert table_7(config) == formula
