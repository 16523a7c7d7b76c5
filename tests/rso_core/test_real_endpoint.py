"""AutoSxS and candidates from a real OpenAI-compatible server with a real model, which you start (docs/endpoints.md).

RSO_REAL_ENDPOINT=http://127.0.0.1:8766/v1 RSO_REAL_MODEL=/models/smollm2 pytest -m slow tests/rso_core/test_real_endpoint.py -s
"""

import os
from pathlib import Path

import pytest
import yaml

from rso_core.answer_cache import AnswerCache
from rso_core.endpoint import Endpoint, Request
from rso_core.endpoint_settings import EndpointSettings
from rso_core.errors import UserError
from rso_core.judge_prompts import parse_few_shot
from rso_core.judging import Comparison, EndpointJudge, Judged, Sampling, judge_comparisons
from tests.rso_core.chain import Chain, toy_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # a server on a busy machine takes its time
    pytest.mark.skipif("RSO_REAL_ENDPOINT" not in os.environ, reason="RSO_REAL_ENDPOINT names no server"),
]
FEW_SHOT = Path(__file__).parents[2] / "rso_core" / "few_shot" / "dialogue.yaml"


def settings(**changes: object) -> EndpointSettings:
    values = {
        "address": os.environ["RSO_REAL_ENDPOINT"], "model": os.environ["RSO_REAL_MODEL"], "private_allowed": True,
        "concurrency": 2, "prompt_price": 1.0, "completion_price": 2.0, "timeout_seconds": 300,
    }  # fmt: skip
    return EndpointSettings.model_validate(values | changes)


def judged(folder: Path, endpoint: Endpoint) -> Judged:
    """The examples of the few-shot file, which a judge should be able to solve."""
    examples = yaml.safe_load(FEW_SHOT.read_text(encoding="utf-8"))["examples"]
    with AnswerCache(folder) as cache:
        return judge_comparisons(
            EndpointJudge(endpoint),
            [Comparison(item["context"], item["a"], item["b"]) for item in examples],
            few_shot=parse_few_shot("", "dialogue"),
            sampling=Sampling(samples=8, temperature=0.7, top_k=40, max_tokens=80),
            seed=0,
            cache=cache,
            on_progress=lambda _: None,
        )


def test_a_real_server_answers_and_is_asked_once(tmp_path: Path) -> None:
    found = judged(tmp_path / "answers", Endpoint(settings()))

    samples = sum(len(answers) for answers in found.answers)
    readable = sum(answer["choice"] is not None for answers in found.answers for answer in answers)
    print(f"\n{samples} answers, {readable} readable, {[v.outcome for v in found.verdicts]}, {found.counts()}")  # noqa: T201
    for answers in found.answers:
        print(repr(answers[0]["text"][:200]))  # noqa: T201
    assert samples == 24
    assert found.prompt_tokens > 24 * 100
    assert 0 < found.completion_tokens <= 24 * 80
    assert found.spent["cost"] > 0
    again = judged(tmp_path / "answers", Endpoint(settings(address="http://127.0.0.1:9/v1", max_retries=0)))
    assert (again.verdicts, again.cached) == (found.verdicts, 24)


def test_a_limit_of_tokens_is_told_and_a_wrong_model_is_the_users() -> None:
    short = Request(({"role": "user", "content": "Tell me a long story."},), temperature=1.0, max_tokens=4, seed=1)
    ((answer,),) = Endpoint(settings()).ask([short])
    assert answer.truncated
    assert answer.completion_tokens == 4
    with pytest.raises(UserError, match="refused with status 4"):
        list(Endpoint(settings(model="no/such-model", max_retries=0)).ask([short]))


def test_a_real_server_gives_the_candidates_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endpoints.yaml").write_text(yaml.safe_dump({"real": settings().model_dump()}))
    monkeypatch.setenv("RSO_ENDPOINTS", str(tmp_path / "endpoints.yaml"))
    chain = Chain(tmp_path)
    sampling = {"endpoint": "real", "max_prompts": 4, "num_candidates": 4}
    plan = chain.run(toy_config(sampling=sampling), until="rejection_sampling")

    rows, counted = chain.rows(plan, "sampling"), chain.summary(plan, "sampling")
    print(f"\n{counted}\n{[c['text'] for c in rows[0]['candidates']]}")  # noqa: T201
    assert [len(row["candidates"]) for row in rows] == [4] * 4
    assert counted["distinct"] > 8
    assert counted["retries"] == 0
    assert counted["prompt_tokens"] > 0
    assert all(len(row["kept"]) == 4 for row in chain.rows(plan, "rejection_sampling"))
