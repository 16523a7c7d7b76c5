"""Proxy, gold and KL along the checkpoints of a fit."""

import json

import pytest

from rso_core.artifacts import iterate_rows
from rso_core.plan import Plan
from rso_core.protocol import Metrics
from rso_core.stages_evaluation import outcome
from tests.rso_core.chain import Chain, toy_config


@pytest.fixture(scope="module", params=["causal", "seq2seq"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"), request.param)


@pytest.fixture(scope="module")
def plan(chain: Chain) -> Plan:
    return chain.run(toy_config(evaluation={"kl_prompts": 6, "gold": "none"}), until="checkpoint_figures")


def test_every_checkpoint_has_its_divergence_and_the_proxy_of_the_selection(chain: Chain, plan: Plan) -> None:
    figures = chain.summary(plan, "checkpoint_figures")["checkpoints"]
    selected = chain.summary(plan, "checkpoint_selection")["checkpoints"]

    assert [figure["step"] for figure in figures] == [2, 4]
    assert [f["proxy"]["value"] for f in figures] == [item["win_rate"]["value"] for item in selected]
    for figure in figures:
        assert figure["kl"]["n"] == 6
        assert 0 < figure["kl"]["low"] <= figure["kl"]["value"] <= figure["kl"]["high"]
        assert 0 < figure["distinct_2"] <= 1
    rows = chain.rows(plan, "checkpoint_figures")
    assert [row["step"] for row in rows] == [2] * 6 + [4] * 6
    reported = [e.values["kl"] for e in chain.events if isinstance(e, Metrics) and "kl" in e.values]
    assert {figure["kl"]["value"] for figure in figures} <= set(reported)


def test_selection_leaves_the_responses_it_has_judged(chain: Chain, plan: Plan) -> None:
    rows = list(iterate_rows(chain.store.files(chain.digest(plan, "checkpoint_selection"))))
    wins = [outcome(row["probability"]) for row in rows if row["step"] == 4]
    rate = chain.summary(plan, "checkpoint_selection")["checkpoints"][1]["win_rate"]
    assert sum(wins) / len(wins) == pytest.approx(rate["value"])
    assert len(wins) == plan.counts["validation_prompts"]


def test_a_fit_whose_last_checkpoint_is_kept_unseen_has_divergences_only(chain: Chain) -> None:
    parts = {"evaluation": {"kl_prompts": 6}, "fitting": {"select_by": "last"}}
    last = chain.run(toy_config(**parts), until="checkpoint_figures")
    figures = chain.summary(last, "checkpoint_figures")["checkpoints"]
    assert [figure["proxy"] for figure in figures] == [None, None]
    assert figures[0]["kl"] is not None


def test_no_figures_are_made_where_none_are_wanted(chain: Chain, plan: Plan) -> None:
    without = chain.plan(toy_config(evaluation={"kl_prompts": 0}))
    assert {stage.key for stage in plan.stages} - {stage.key for stage in without.stages} == {"checkpoint_figures"}
    assert without.stage("report").fingerprint == plan.stage("report").fingerprint


def test_the_win_rate_says_what_it_is_at_equal_length_and_how_various_the_responses_are(chain: Chain) -> None:
    run = chain.run(toy_config())
    for key in ("win_rate_sft", "win_rate_policy"):
        summary = chain.summary(run, key)
        assert summary["length_controlled"]["gold"] is None
        controlled = summary["length_controlled"]["proxy"]
        assert controlled is None or 0 < controlled["low"] < controlled["value"] < controlled["high"] < 1
        assert 0 < summary["variety"]["distinct_1"] <= 1
        json.dumps(summary, allow_nan=False)
