import math

import numpy as np
import pytest

from rso_core.errors import UserError
from rso_core.objectives import parse_objectives, preference, scale_of, weighted_average
from tests.rso_core.chain import Chain, import_model, toy_config


def test_the_average_is_that_of_the_formula() -> None:
    found = weighted_average([[1.0, 3.0], [10.0, -10.0]], weights=[3, 1], scales=[2, 5])
    assert found.tolist() == [(3 * 1 / 2 + 10 / 5) / 4, (3 * 3 / 2 - 10 / 5) / 4]


def test_an_objective_alone_keeps_its_order_and_the_scale_of_its_logits_does_not_matter() -> None:
    rewards, other = [0.3, -2.0, 5.0], [1.0, 2.0, 0.5]
    assert weighted_average([rewards], [7.0], [1.0]).tolist() == pytest.approx(rewards)
    plain = weighted_average([rewards, other], [1, 1], [scale_of(rewards), scale_of(other)])
    loud = [100 * value for value in other]
    scaled = weighted_average([rewards, loud], [1, 1], [scale_of(rewards), scale_of(loud)])
    np.testing.assert_allclose(plain, scaled)


def test_a_larger_weight_approaches_the_objective_alone() -> None:
    one, two = [1.0, 0.0], [0.0, 1.0]
    assert weighted_average([one, two], [1e9, 1], [1, 1]).tolist() == pytest.approx(one, abs=1e-6)
    assert weighted_average([one, two], [1, 1], [1, 1]).tolist() == [0.5, 0.5]


def test_equal_rewards_have_a_scale_that_decides_nothing() -> None:
    assert scale_of([2.0, 2.0, 2.0]) == 1.0
    assert scale_of([1.0, 3.0]) == 1.0
    assert scale_of([0.0, 4.0]) == 2.0


def test_the_logit_of_a_certain_model_is_finite() -> None:
    assert preference(0.5) == 0
    assert preference(0.9) == pytest.approx(math.log(9))
    assert (preference(0.0), preference(1.0)) == (-700, 700)


@pytest.mark.parametrize(("weights", "scales"), [([1, 0], [1, 1]), ([1, 1], [1, math.inf]), ([math.nan, 1], [1, 1])])
def test_impossible_weights_and_scales_are_refused(weights: list[float], scales: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and above 0"):
        weighted_average([[1.0], [2.0]], weights, scales)
    with pytest.raises(ValueError, match="one entry an objective, got 1, 2 and 2"):
        weighted_average([[1.0]], [1, 1], [1, 1])


def test_objectives_are_written_as_names_and_weights() -> None:
    assert parse_objectives("") == []
    assert parse_objectives(" helpful = 0.5, brief=2 ,") == [("helpful", 0.5), ("brief", 2.0)]
    for wrong in ("helpful", "=1", "helpful=0", "helpful=-1", "helpful=nan", "helpful=much"):
        with pytest.raises(UserError, match="written name=weight with a weight above 0"):
            parse_objectives(wrong)
    with pytest.raises(ValueError, match="written name=weight"):
        toy_config(objectives={"models": "helpful"})


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    chain = Chain(tmp_path_factory.mktemp("objectives"))
    chain.models["other"] = import_model(chain.store, "causal", seed=5)
    return chain


def test_rewards_kept_and_labels_are_those_of_the_weighted_average(chain: Chain) -> None:
    alone, both = chain.run(toy_config(), until="pairs"), toy_config(objectives={"models": "other=2"})
    plan = chain.run(both, until="policy_fitting")

    assert plan.stage("scoring").fingerprint == alone.stage("scoring").fingerprint
    parts = [chain.rows(plan, key) for key in ("scoring", "scoring_objective_1")]
    scales = [scale_of([r for row in rows for r in row["rewards"]]) for rows in parts]
    assert chain.summary(plan, "combined_rewards")["scales"] == scales
    for own, other, combined in zip(*parts, chain.rows(plan, "combined_rewards"), strict=True):
        expected = weighted_average([own["rewards"], other["rewards"]], [1, 2], scales)
        np.testing.assert_allclose(combined["rewards"], expected)
    rewards = {row["prompt_id"]: row["rewards"] for row in chain.rows(plan, "combined_rewards")}
    for row in chain.rows(plan, "rejection_sampling"):
        assert row["kept_rewards"] == [rewards[row["prompt_id"]][c["sample_index"]] for c in row["kept"]]
    assert plan.stage("pairs").digests == {"reward_model_1": chain.models["other"]}


def test_games_are_decided_by_the_average_of_the_objectives_logits(chain: Chain) -> None:
    from rso_core.reward_ranking import prefer

    plan = chain.run(toy_config(objectives={"models": "other=2"}), until="pairs")
    scales = chain.summary(plan, "combined_rewards")["scales"]
    pairs = chain.rows(plan, "pairs")[:6]
    models = [chain.digest(plan, "reward_training"), chain.models["other"]]
    settings = {"task": "summarization", "max_length": 64, "order_average": True, "batch_size": 32}
    triples = [(p["prompt"], p["chosen"], p["rejected"]) for p in pairs]
    logits = [
        [preference(p) for p in prefer(chain.cache.load(chain.store.path(m) / "model", m, "auto"), triples, **settings)]
        for m in models
    ]
    margins = weighted_average(logits, [1, 2], scales)
    assert [p["probability"] for p in pairs] == pytest.approx((1 / (1 + np.exp(-margins))).tolist(), abs=1e-5)
    assert (margins > 0).all()


@pytest.mark.parametrize("source", ["sft_sample_rank", "best_candidate"])
def test_objectives_are_normalised_by_the_pool_also_where_only_games_are_played(chain: Chain, source: str) -> None:
    loss = "cross_entropy" if source == "best_candidate" else "hinge"
    config = toy_config(objectives={"models": "other=1"}, pairs={"pair_source": source}, fitting={"loss": loss})
    plan = chain.run(config, until="policy_fitting")
    made = plan.stage("targets" if source == "best_candidate" else "pairs")
    assert made.needs["combined"] == "combined_rewards"
    assert chain.summary(plan, "policy_fitting")["steps"] == 4
