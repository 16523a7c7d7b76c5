"""Responses to a list of prompts: those of the run that the model comes from, whatever the list."""

import pytest

from rso_core.artifacts import ROWS, Row, iterate_rows, write_rows
from rso_core.plan import Plan
from rso_core.planner import responses_stage
from rso_core.protocol import Progress, Result, StageSpec
from rso_core.stages import execute
from rso_core.stages_evaluation import PROMPTS
from tests.rso_core.chain import Chain, toy_config


@pytest.fixture(scope="module", params=["causal", "seq2seq"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"), request.param)


@pytest.fixture(scope="module")
def plan(chain: Chain) -> Plan:
    """A run whose SFT model has answered the test prompts."""
    found = chain.run(toy_config(), until="sft")
    chain.run_stage(found, "generation_sft")
    return found


def prompts_artifact(chain: Chain, rows: list[Row]) -> str:
    staging = chain.store.staging()
    write_rows(staging / ROWS, ({name: row[name] for name in PROMPTS.names} for row in rows), PROMPTS)
    return chain.store.commit(staging, kind="prompts")


def answered(chain: Chain, plan: Plan, rows: list[Row]) -> Result:
    stage = responses_stage(
        toy_config(), policy=chain.digest(plan, "sft"), prompts=prompts_artifact(chain, rows), count=len(rows)
    )
    spec = StageSpec(kind=stage.kind, fingerprint=stage.fingerprint, config=stage.config, inputs=stage.digests)
    return execute(spec, chain.store, chain.events.append, chain.cache)


def test_a_list_of_prompts_gets_the_responses_that_the_run_gave_them(chain: Chain, plan: Plan) -> None:
    rows = chain.rows(plan, "generation_sft")
    chosen = rows[1::2]

    result = answered(chain, plan, chosen)

    found = list(iterate_rows(chain.store.files(result.digest)))
    columns = ("prompt_id", "response", "response_token_ids", "truncated")
    assert found == [{name: row[name] for name in columns} for row in chosen]
    assert result.summary == {
        "prompts": len(chosen),
        "truncated": sum(row["truncated"] for row in chosen),
        "tokens": sum(len(row["response_token_ids"]) for row in chosen),
    }


def test_progress_counts_the_prompts(chain: Chain, plan: Plan) -> None:
    rows = chain.rows(plan, "generation_sft")[:4]
    chain.events.clear()
    answered(chain, plan, rows)
    counted = [(event.done, event.total, event.unit) for event in chain.events if isinstance(event, Progress)]
    assert counted[0] == (0, 4, "prompts")
    assert counted[-1] == (4, 4, "prompts")


def test_equal_work_has_one_fingerprint_and_another_model_or_list_another() -> None:
    def fingerprint(policy: str = "a" * 64, prompts: str = "b" * 64, seed: int = 3) -> str:
        config = toy_config().model_copy(update={"seed": seed})
        return responses_stage(config, policy=policy, prompts=prompts, count=1).fingerprint

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(policy="c" * 64), fingerprint(prompts="c" * 64), fingerprint(seed=4)}) == 4


def test_responses_are_made_where_models_run() -> None:
    assert responses_stage(toy_config(), policy="a" * 64, prompts="b" * 64, count=7).queue == "gpu"


def test_nothing_else_is_left_in_staging(chain: Chain, plan: Plan) -> None:
    answered(chain, plan, chain.rows(plan, "generation_sft")[:2])
    assert list((chain.store.root / "staging").iterdir()) == []
