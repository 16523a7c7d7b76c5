"""The systems of the paper beyond RSO and DPO, and the two controls, each as a run on toy data."""

import math
from pathlib import Path
from typing import Any

import pytest

from rso_core.config import PRESETS, load_run_config
from rso_core.costs import cost_of
from rso_core.demo import RECIPES
from rso_core.errors import UserError
from rso_core.protocol import add_summaries
from tests.rso_core.chain import Chain, dataset_row, import_rows, texts, toy_config

RAFT = {"pairs": {"pair_source": "best_candidate"}, "fitting": {"loss": "cross_entropy"}}
REST = {"pairs": {"pair_source": "above_threshold"}, "fitting": {"loss": "cross_entropy"}}
SYSTEMS = sorted((RECIPES / "systems").glob("*.yaml"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """One store: what one run has made the next one reuses."""
    return Chain(tmp_path_factory.mktemp("systems"))


def by_prompt(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["prompt_id"]: row for row in rows}


def test_raft_fits_on_the_winner_of_a_tournament_of_all_candidates(chain: Chain) -> None:
    plan = chain.run(toy_config(**RAFT))
    summary, targets = chain.summary(plan, "targets"), chain.rows(plan, "targets")
    pool = by_prompt(chain.rows(plan, "sampling"))

    assert "pairs" not in {stage.key for stage in plan.stages}
    assert "scoring" not in {stage.key for stage in plan.stages}
    assert len(targets) == summary["targets"] == plan.counts["train_prompts"]
    for row in targets:
        candidate = pool[row["prompt_id"]]["candidates"][row["sample_index"]]
        assert (row["target"], row["target_token_ids"]) == (candidate["text"], candidate["token_ids"])
    fit = chain.summary(plan, "policy_fitting")
    assert fit["targets"] == len(targets)
    assert fit["last"]["loss"] < fit["first"]["loss"]
    assert chain.report(plan)["policy"]["proxy"]["n"] == plan.counts["test_prompts"]


def test_raft_by_points_takes_the_highest_of_the_shared_scores(chain: Chain) -> None:
    pairs = {"pair_source": "best_candidate", "best_by": "pointwise"}
    plan = chain.run(toy_config(pairs=pairs, fitting=RAFT["fitting"]), until="targets")
    rso = chain.plan(toy_config())
    scores = by_prompt(chain.rows(plan, "scoring"))

    assert plan.stage("scoring").fingerprint == rso.stage("scoring").fingerprint
    for row in chain.rows(plan, "targets"):
        rewards = scores[row["prompt_id"]]["rewards"]
        assert row["reward"] == max(rewards) == rewards[row["sample_index"]]
    assert chain.summary(plan, "targets")["comparisons"] == 0


@pytest.mark.parametrize("normalize", ["per_prompt", "global"])
def test_rest_fits_on_all_candidates_above_the_threshold(chain: Chain, normalize: str) -> None:
    pairs = {"pair_source": "above_threshold", "threshold": 0.6, "normalize": normalize}
    plan = chain.run(toy_config(pairs=pairs, fitting=REST["fitting"]), until="policy_fitting")
    scores, summary = chain.rows(plan, "scoring"), chain.summary(plan, "targets")
    everything = [value for row in scores for value in row["rewards"]]

    expected = set()
    for row in scores:
        scale = row["rewards"] if normalize == "per_prompt" else everything
        low, high = min(scale), max(scale)
        expected |= {
            (row["prompt_id"], i) for i, v in enumerate(row["rewards"]) if high > low and (v - low) / (high - low) > 0.6
        }
    found = {(row["prompt_id"], row["sample_index"]) for row in chain.rows(plan, "targets")}
    assert found == expected
    assert summary["targets"] == len(expected)
    assert summary["skipped_prompts"] == summary["prompts"] - len({prompt for prompt, _ in expected})


def test_coin_labels_are_the_pairs_of_rso_turned_by_chance(chain: Chain) -> None:
    rso = chain.run(toy_config(), until="pairs")
    coin = chain.run(toy_config(pairs={"label": "coin_label"}), until="policy_fitting")

    def games(pairs: list[dict[str, Any]]) -> dict[tuple[Any, ...], int]:
        return {(p["prompt_id"], *sorted((p["chosen_index"], p["rejected_index"]))): p["chosen_index"] for p in pairs}

    assert coin.stage("rejection_sampling").fingerprint == rso.stage("rejection_sampling").fingerprint
    labelled, tossed = games(chain.rows(rso, "pairs")), games(chain.rows(coin, "pairs"))
    assert labelled.keys() <= tossed.keys()  # ρ of exactly ½ drops a pair, a coin never does
    agree = sum(tossed[game] == winner for game, winner in labelled.items()) / len(labelled)
    assert abs(agree - 0.5) < 4 * math.sqrt(0.25 / len(labelled))
    assert chain.summary(coin, "pairs")["comparisons"] == 0
    assert {pair["probability"] for pair in chain.rows(coin, "pairs")} == {None}
    assert "reward_model" not in coin.stage("pairs").needs


def test_best_of_n_is_evaluated_without_a_fit_and_beats_a_single_sample_by_the_reward(chain: Chain) -> None:
    plan = chain.run(toy_config(fitting={"enabled": False}, evaluation={"best_of": 8}))
    keys = {stage.key for stage in plan.stages}
    summary = chain.summary(plan, "generation_policy")

    assert keys.isdisjoint({"sampling", "pairs", "policy_fitting", "checkpoint_selection"})
    assert summary["selection_comparisons"] == 8 * plan.counts["test_prompts"]
    assert summary["baseline_decodes"] == plan.counts["test_prompts"]
    report = chain.report(plan)
    assert report["policy"]["proxy"]["value"] >= report["sft"]["proxy"]["value"]
    assert plan.stage("generation_sft").fingerprint == chain.plan(toy_config()).stage("generation_sft").fingerprint


def test_slic_without_its_regulariser_is_the_fit_of_hinge_at_another_rate(chain: Chain) -> None:
    """γ·slic = hinge at δ = 1/γ and λ = 0, so the first losses differ by the factor γ."""
    hinge = chain.run(toy_config(fitting={"loss": "hinge", "gamma": 0.1}), until="policy_fitting")
    slic = chain.run(toy_config(fitting={"loss": "slic", "gamma": 0.1}), until="policy_fitting")

    first = [chain.summary(plan, "policy_fitting")["first"]["loss"] for plan in (hinge, slic)]
    assert 0.1 * first[1] == pytest.approx(first[0], rel=1e-5)


def test_slic_pulls_towards_the_sft_target_of_the_prompt(chain: Chain) -> None:
    free = chain.run(toy_config(fitting={"loss": "slic", "gamma": 0.1}), until="policy_fitting")
    pulled = chain.run(toy_config(fitting={"loss": "slic", "gamma": 0.1, "regularizer": 50}), until="policy_fitting")

    fit = chain.summary(pulled, "policy_fitting")
    assert fit["pulled_to_chosen"] == 0  # every prompt of the toy data has a target
    expected = chain.summary(free, "policy_fitting")["first"]["loss"] - 50 * fit["first"]["target_log_prob"]
    assert fit["first"]["loss"] == pytest.approx(expected, rel=1e-4)
    assert fit["last"]["target_log_prob"] > fit["first"]["target_log_prob"]


def test_a_target_too_long_gives_way_to_the_chosen_response_and_is_counted(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    config = toy_config(
        data={"max_response_tokens": 4}, sft={"enabled": False}, fitting={"loss": "slic", "regularizer": 1}
    )
    plan = chain.run(config, until="policy_fitting")
    fit = chain.summary(plan, "policy_fitting")
    assert fit["pulled_to_chosen"] == fit["pairs"] > 0  # targets have four words and the end of the sequence
    assert fit["first"]["target_log_prob"] == pytest.approx(fit["first"]["chosen_log_prob"])


def test_a_pool_without_two_different_rewards_is_refused_with_what_to_do(chain: Chain) -> None:
    config = toy_config(sampling={"top_k": 1, "num_candidates": 6}, **REST)
    with pytest.raises(UserError, match=r"there are no targets: none of \d+ prompts .*raise sampling.temperature"):
        chain.run(config, until="targets")


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_the_recipe_of_a_system_extends_that_of_the_built_in_task(path: Path) -> None:
    config, base = load_run_config(path), load_run_config(RECIPES / "mini_tldr.yaml")
    assert config.name.startswith("mini ")
    assert config.data == base.data
    assert config.sft == base.sft
    assert config.fitting.learning_rate == base.fitting.learning_rate


def test_every_preset_has_a_recipe() -> None:
    base = load_run_config(RECIPES / "mini_tldr.yaml").model_dump()
    ready = [load_run_config(path).model_dump() for path in SYSTEMS]

    def is_made_by(config: dict[str, Any], parts: dict[str, dict[str, Any]]) -> bool:
        wanted = {part: base[part] | values for part, values in parts.items()}
        return all(config[part] == wanted.get(part, base[part]) for part in ("pairs", "fitting", "evaluation"))

    for name, parts in PRESETS.items():
        assert any(is_made_by(config, parts) for config in ready), name


@pytest.mark.parametrize("reference", ["kept", "moved"])
def test_the_fitted_policy_of_a_round_is_the_proposal_of_the_next(chain: Chain, reference: str) -> None:
    once = chain.run(toy_config())
    twice = chain.run(toy_config(rounds={"count": 2, "reference": reference}))

    # The first round is that of a run of one round, shared.
    for key in ("sampling", "scoring", "pairs", "policy_fitting", "checkpoint_selection"):
        assert twice.stage(f"{key}_round_1").fingerprint == once.stage(key).fingerprint
    assert twice.stage("sampling").needs["policy"] == "checkpoint_selection_round_1"
    before = "sft" if reference == "kept" else "checkpoint_selection_round_1"
    assert twice.stage("reference_log_probs").needs["policy"] == before
    assert twice.stage("policy_fitting").needs["policy"] == before
    assert chain.rows(twice, "sampling") != chain.rows(once, "sampling")
    # A fit starts where its reference is, so its first loss is known.
    assert chain.summary(twice, "policy_fitting")["first"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert chain.report(twice)["policy"]["proxy"]["n"] == twice.counts["test_prompts"]


def test_the_cost_of_rounds_is_their_sum(chain: Chain) -> None:
    config = toy_config(rounds={"count": 2})
    plan = chain.run(config)
    made = {stage.key: add_summaries(chain.summaries[stage.fingerprint]) for stage in plan.stages[1:]}
    cost = cost_of(config, made)
    assert cost is not None
    assert (cost.decodes, cost.formula, cost.baseline_decodes) == (12, (12, 16), 2)


def test_prompts_of_another_dataset_are_sampled_and_measured_and_their_targets_not_trained_on(chain: Chain) -> None:
    """Table 6: preferences and π_sft of one dataset, prompts of another."""
    posts, targets = texts(30, 7, seed=11), texts(30, 5, seed=12)
    rows = [dataset_row(i, p, target=t) for i, (p, t) in enumerate(zip(posts, targets, strict=True), 1)]
    chain.datasets["news"] = import_rows(chain.store, "sft", rows)
    plain, crossed = chain.run(toy_config()), chain.run(toy_config(data={"prompts": "news"}))

    assert crossed.stage("sft").fingerprint == plain.stage("sft").fingerprint
    assert crossed.stage("reward_training").fingerprint == plain.stage("reward_training").fingerprint
    sampled = {row["prompt"] for key in ("sampling", "pairs") for row in chain.rows(crossed, key)}
    measured = chain.rows(crossed, "generation_policy")
    assert sampled <= set(posts)
    assert {(row["prompt"], row["target"]) for row in measured} <= set(zip(posts, targets, strict=True))
    assert {row["prompt"] for row in measured}.isdisjoint(sampled)


def test_a_pool_of_256_candidates_is_sampled_scored_and_drawn_from(chain: Chain) -> None:
    sampling = {"num_candidates": 256, "max_prompts": 2, "prompts_per_shard": 2}
    config = toy_config(sampling=sampling, rejection_sampling={"num_samples": 8})
    plan = chain.run(config, until="rejection_sampling")
    assert [len(row["candidates"]) for row in chain.rows(plan, "sampling")] == [256, 256]
    assert [len({c["sample_index"] for c in row["kept"]}) for row in chain.rows(plan, "rejection_sampling")] == [8, 8]
