"""Comparisons put to a judge: both orders, eight samples, each question asked once in the life of a store."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rso_core import endpoint, stages_judging
from rso_core.answer_cache import Answer, AnswerCache
from rso_core.auto_sxs import FewShot
from rso_core.config import JudgeConfig
from rso_core.errors import TransientError, UserError
from rso_core.judge_prompts import few_shot_text, parse_few_shot
from rso_core.judging import Comparison, Judged, ModelJudge, Question, Sampling, judge_comparisons
from rso_core.models import LanguageModel, load
from rso_core.plan import Plan
from rso_core.protocol import Log
from rso_core.win_rate import win_rate
from tests.rso_core.bad_server import fails, says, serving
from tests.rso_core.chain import Chain, toy_config
from tests.rso_core.toys import toy_model

SAMPLING = Sampling(samples=8, temperature=0.7, top_k=40, max_tokens=20)
FEW_SHOT = FewShot(instruction="Compare.", context="Post", response="Summary", examples=())


class Longer:
    """A judge that prefers the longer response, `slips` times in each order answers without a choice, and counts."""

    def __init__(self, slips: int = 0, stop_after: int = 10**6) -> None:
        self.slips, self.stop_after, self.asked = slips, stop_after, 0

    def answer(self, questions: Sequence[Question], _: Sampling) -> Iterator[list[Answer]]:
        for question in questions:
            if self.asked == self.stop_after:
                raise ConnectionError
            self.asked += 1
            case = question.prompt.rpartition("Summary (A): ")[2]
            first, _, second = (
                case.removesuffix("\n\nexplanation:").removesuffix("\nexplanation:").partition("\nSummary (B): ")
            )
            choice = "A" if len(first) > len(second) else "B"
            texts = ["hm"] * self.slips + [f"well. choice: ({choice})"] * (question.samples - self.slips)
            yield [Answer(text, truncated=text == "hm", prompt_tokens=10, completion_tokens=3) for text in texts]

    def spent(self, prompt_tokens: int, completion_tokens: int) -> dict[str, float]:
        return {"cost": (prompt_tokens + completion_tokens) / 1000}


def ask(folder: Path, judge: Longer, *comparisons: Comparison, seed: int = 0) -> Judged:
    with AnswerCache(folder) as cache:
        return judge_comparisons(
            judge, comparisons, few_shot=FEW_SHOT, sampling=SAMPLING, seed=seed, cache=cache, on_progress=lambda _: None
        )


def test_the_better_response_wins_in_both_orders(tmp_path: Path) -> None:
    found = ask(tmp_path, Longer(), Comparison("p", "long one", "short"), Comparison("p", "short", "long one"))

    assert [v.outcome for v in found.verdicts] == ["win", "loss"]
    assert [v.average for v in found.verdicts] == [1.0, -1.0]
    assert not any(v.order_flip for v in found.verdicts)
    answers = found.answers[0]
    assert [answer["choice"] for answer in answers] == ["A"] * 4 + ["B"] * 4
    assert [answer["flipped"] for answer in answers] == [False] * 4 + [True] * 4


def test_tokens_and_answers_cut_off_are_counted_and_half_readable_orders_are_unjudged(tmp_path: Path) -> None:
    found = ask(tmp_path, Longer(slips=3), Comparison("p", "long one", "short"))

    assert found.verdicts[0].outcome == "unjudged"
    assert found.verdicts[0].unparseable == 6
    assert found.counts() == {
        "answers_cached": 0, "prompt_tokens": 80, "completion_tokens": 24, "answers_cut_off": 6, "cost": 0.104,
        "single_answer_questions": 0,
    }  # fmt: skip


def test_equal_texts_are_a_tie_that_nobody_is_asked_about(tmp_path: Path) -> None:
    judge = Longer()
    found = ask(tmp_path, judge, Comparison("p", "same", "same"))
    assert (found.verdicts[0].outcome, found.answers, judge.asked) == ("tie", [[]], 0)


def test_a_question_is_asked_once_in_the_life_of_a_store(tmp_path: Path) -> None:
    pairs = (Comparison("p", "long one", "short"), Comparison("q", "a", "bc"))
    first, second = Longer(), Longer()
    before = ask(tmp_path, first, *pairs)
    after = ask(tmp_path, second, *pairs, Comparison("p", "long one", "short"))

    assert (first.asked, second.asked) == (4, 0)
    assert after.verdicts[:2] == before.verdicts
    assert after.cached == 24
    assert ask(tmp_path, second, *pairs, seed=1).cached == 0  # another seed is another question


def test_what_was_answered_before_a_failure_is_not_asked_again(tmp_path: Path) -> None:
    pairs = [Comparison(f"p{i}", "long one", "short") for i in range(5)]
    with pytest.raises(ConnectionError):
        ask(tmp_path / "cache", Longer(stop_after=7), *pairs)
    with next((tmp_path / "cache").iterdir()).open("a") as file:
        file.write('["cut off in the mid')

    again = Longer()
    assert [v.outcome for v in ask(tmp_path / "cache", again, *pairs).verdicts] == ["win"] * 5
    assert again.asked == 3


# An endpoint as judge


ENDPOINT_JUDGE = {"backend": "endpoint", "endpoint": "far", "max_tokens": 6}
KEY = "RSO_ENDPOINT_KEY_TEST"


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Allows the endpoint "far" at an address."""

    def allow(address: str, model: str = "tiny") -> None:
        settings = {"address": address, "model": model, "private_allowed": True, "key_variable": KEY, "max_retries": 2,
                    "timeout_seconds": 5, "prompt_price": 1e6, "concurrency": 2}  # fmt: skip
        (tmp_path / "endpoints.yaml").write_text(yaml.safe_dump({"far": settings}))

    monkeypatch.setenv("RSO_ENDPOINTS", str(tmp_path / "endpoints.yaml"))
    monkeypatch.setenv(KEY, "sk-very-secret")
    monkeypatch.setattr(endpoint, "FIRST_DELAY", 0.001)
    return allow


def plan_with_endpoint(chain: Chain, until: str) -> Plan:
    return chain.run(toy_config(judge=ENDPOINT_JUDGE), until=until)


def test_a_stage_knows_an_endpoint_by_name_and_model_and_waits_on_the_cpu_queue(chain: Chain, far: Any) -> None:
    far("https://secret-host.example/v1")
    stage = chain.plan(toy_config(judge=ENDPOINT_JUDGE)).stage("auto_sxs_policy")
    assert stage.config["judge"]["endpoint"] == {"name": "far", "model": "tiny"}
    assert "secret-host" not in str(stage)
    assert (stage.queue, set(stage.digests)) == ("cpu", set())
    with pytest.raises(UserError, match=r"no endpoint is called 'near'; known: far\. An admin adds it"):
        chain.plan(toy_config(judge={**ENDPOINT_JUDGE, "endpoint": "near"}))


def test_troubles_of_an_endpoint_are_counted_and_its_key_is_in_no_file(chain: Chain, far: Any) -> None:
    # A server that always prefers what it is shown first: as bad as a judge can be.
    with serving(fails(503), says("explanation: first. choice: (A)")) as server:
        far(server.address)
        plan = plan_with_endpoint(chain, "auto_sxs_policy")
        assert server.asked[0][1]["Authorization"] == "Bearer sk-very-secret"
    counted = chain.summary(plan, "auto_sxs_policy")
    different = counted["samples"] // 8
    assert counted["single_answer_questions"] == 2 * different
    assert any("it may not sample" in event.message for event in chain.events if isinstance(event, Log))
    assert counted["retries"] >= 0
    assert counted["cost"] == counted["prompt_tokens"] == 7 * counted["samples"]
    assert counted["order_flips"] == different > 0
    assert counted["outcomes"]["tie"] == counted["prompts"]
    assert chain.summary(plan, "auto_sxs_sft")["retries"] == 1
    written = b"".join(path.read_bytes() for path in chain.store.root.rglob("*") if path.is_file())
    assert b"sk-very-secret" not in written
    assert server.address.encode() not in written


def test_an_endpoint_that_fails_for_good_is_a_passing_trouble_and_one_that_moved_a_users(
    chain: Chain, far: Any
) -> None:
    with serving(fails(503, b"overloaded")) as server:
        far(server.address)
        plan = chain.run(toy_config(judge={**ENDPOINT_JUDGE, "temperature": 0.5}), until="win_rate_policy")
        with pytest.raises(TransientError, match="in 3 tries; at last: status 503: overloaded"):
            chain.run_stage(plan, "auto_sxs_policy")
    far(server.address, model="another")
    with pytest.raises(UserError, match="has the model 'another' now"):
        chain.run_stage(plan, "auto_sxs_policy")


# A model as judge


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("judge") / "model"
    toy_model(folder, "causal")
    return load(folder, dtype="float32")


def test_a_models_answers_depend_on_question_and_seed_alone(lm: LanguageModel) -> None:
    questions = [Question(f"dog cat {i}", 4, seed=i) for i in range(3)]
    judge = ModelJudge(lm, batch_size=32)
    together = list(judge.answer(questions, SAMPLING))
    alone = [answers for question in questions for answers in judge.answer([question], SAMPLING)]

    assert together == alone
    assert all(len(answers) == 4 for answers in together)
    assert len({answer.text for answers in together for answer in answers}) > 1
    assert all(1 <= answer.completion_tokens <= 20 for answers in together for answer in answers)


def test_a_question_too_long_for_the_judge_says_what_to_shorten(lm: LanguageModel) -> None:
    limit = lm.context_limit
    assert limit is not None
    with pytest.raises(UserError, match=f"exceeds the judge's context of {limit} tokens; shorten the examples"):
        list(ModelJudge(lm, batch_size=4).answer([Question("dog " * limit, 4, 0)], SAMPLING))


# Few-shot prompts


def test_the_products_own_prompts_are_used_unless_another_is_given() -> None:
    for task in ("summarization", "dialogue"):
        assert parse_few_shot("", task) == parse_few_shot(few_shot_text(task), "dialogue")
    edited = few_shot_text("dialogue").replace("context: Conversation", "context: Talk")
    assert parse_few_shot(edited, "dialogue").context == "Talk"


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("context: Post", "instruction: Field required")]
)
def test_a_wrong_few_shot_prompt_says_why(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_few_shot(text, "dialogue")


def test_a_judge_is_named_exactly_when_it_is_wanted() -> None:
    for wrong in ({"backend": "model"}, {"model": "toy"}, {"backend": "endpoint", "model": "toy"}, {"endpoint": "far"}):
        with pytest.raises(ValueError, match="must be named exactly when"):
            JudgeConfig.model_validate(wrong)


# The stages


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


JUDGE = {"backend": "model", "model": "toy", "few_shot": "{instruction: Compare, context: Post, response: Summary, examples: []}",
         "max_tokens": 6}  # fmt: skip


def test_a_run_has_auto_sxs_beside_its_win_rates(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages_judging, "_judge", lambda _: Longer())
    plan = chain.run(toy_config(judge=JUDGE))

    report, rows = chain.report(plan), chain.rows(plan, "auto_sxs_policy")
    longer = [float(len(r["first"]) > len(r["second"])) if r["first"] != r["second"] else 0.5 for r in rows]
    expected = win_rate(longer, [row["root"] for row in rows], draws=200, seed=3)
    assert report["policy"]["auto_sxs"] == pytest.approx(expected.as_dict())
    assert report["difference"]["auto_sxs"]["n"] == plan.counts["test_prompts"]
    pairs = chain.rows(plan, "judge_accuracy")
    assert len(pairs) == plan.counts["preference_test_pairs"]
    assert report["judge"]["accuracy"] == pytest.approx(chain.summary(plan, "judge_accuracy")["accuracy"])
    # Chosen texts of the toy data have four words, rejected ones three.
    assert report["judge"]["better_than_chance"]
    assert chain.run(toy_config(judge={**JUDGE, "samples": 4}), until="win_rate_policy")


def test_a_model_that_states_no_choice_leaves_everything_unjudged_and_says_so(chain: Chain) -> None:
    chain.events.clear()
    plan = chain.run(toy_config(judge={**JUDGE, "temperature": 0.9}))

    counted = chain.summary(plan, "auto_sxs_policy")
    different = [row for row in chain.rows(plan, "auto_sxs_policy") if row["first"] != row["second"]]
    assert counted["outcomes"]["unjudged"] == len(different) > 0
    assert counted["unparseable"] > 7 * len(different)
    assert chain.report(plan)["judge"] == {"accuracy": None, "better_than_chance": False}
    warnings = [event.message for event in chain.events if isinstance(event, Log) and event.level == "warning"]
    assert any("answers of the judge hold no choice" in message for message in warnings)


def test_the_judge_changes_figures_only(chain: Chain) -> None:
    plain, judged = chain.plan(toy_config()), chain.plan(toy_config(judge=JUDGE))
    known = {stage.fingerprint for stage in plain.stages}
    assert {stage.key for stage in judged.stages if stage.fingerprint not in known} == {
        "auto_sxs_sft", "auto_sxs_policy", "judge_accuracy", "report",
    }  # fmt: skip


# The judge as labeller


def test_samples_are_labelled_by_the_judge_in_the_place_of_the_reward_model(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages_judging, "_judge", lambda _: Longer())
    plan = chain.run(toy_config(judge=JUDGE, pairs={"label": "auto_sxs"}), until="policy_fitting")

    rows, counted = chain.rows(plan, "pairs"), chain.summary(plan, "pairs")
    assert rows
    assert all(len(row["chosen"]) > len(row["rejected"]) and row["probability"] == 1.0 for row in rows)
    assert counted["pairs"] + counted["dropped_ties"] == 2 * plan.counts["train_prompts"]
    assert counted["order_flips"] <= counted["dropped_ties"]
    assert counted["prompt_tokens"] == 80 * counted["comparisons"]
    assert "reward_training" not in plan.stage("pairs").needs.values()
    assert "not independent of the training" in plan.warnings[0]


def test_human_pairs_are_labelled_anew_and_undecided_ones_dropped(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = chain.rows(chain.run(toy_config(pairs={"pair_source": "direct"}), until="pairs"), "pairs")
    monkeypatch.setattr(stages_judging, "_judge", lambda _: Longer())
    plan = chain.run(toy_config(judge=JUDGE, pairs={"pair_source": "direct", "label": "auto_sxs"}), until="pairs")

    rows, counted = chain.rows(plan, "pairs"), chain.summary(plan, "pairs")
    expected = {
        pair["row_id"]: max(pair["chosen"], pair["rejected"], key=len)
        for pair in people
        if len(pair["chosen"]) != len(pair["rejected"])
    }
    assert {row["row_id"]: row["chosen"] for row in rows} == expected
    ids = {pair[side]: pair[f"{side}_token_ids"] for pair in people for side in ("chosen", "rejected")}
    assert all(row[f"{side}_token_ids"] == ids[row[side]] for row in rows for side in ("chosen", "rejected"))
    assert counted["against_people"] == sum(len(pair["chosen"]) < len(pair["rejected"]) for pair in people)
    assert (counted["comparisons"], counted["dropped_ties"]) == (len(people), len(people) - len(rows))
    assert [row["index"] for row in rows] == list(range(len(rows)))


def test_a_judge_that_decides_nothing_leaves_no_pairs_and_says_so(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages_judging, "_judge", lambda _: Longer(slips=3))
    config = toy_config(judge={**JUDGE, "temperature": 0.3}, pairs={"pair_source": "direct", "label": "auto_sxs"})
    with pytest.raises(UserError, match="the judge prefers neither response of any human pair; take a stronger judge"):
        chain.run(config, until="pairs")


def test_a_labeller_needs_a_judge() -> None:
    with pytest.raises(ValueError, match=r"there is no judge: set `judge\.backend`"):
        toy_config(pairs={"label": "auto_sxs"})


# An endpoint as sampler


def sampled(chain: Chain, **changes: Any) -> Plan:
    return chain.run(toy_config(sampling={"endpoint": "far", "prompts_per_shard": 100, **changes}), until="sampling")


def test_candidates_of_an_endpoint_are_read_by_the_policys_tokenizer_and_counted(chain: Chain, far: Any) -> None:
    with serving(fails(503), says("dog cat"), says("dog  zebra", finish="length")) as server:
        far(server.address)
        plan = sampled(chain)
        bodies = [body for _, _, body in server.asked[1:]]

    stage, rows, counted = plan.stage("sampling"), chain.rows(plan, "sampling"), chain.summary(plan, "sampling")
    assert (stage.config["endpoint"], stage.queue) == ({"name": "far", "model": "tiny"}, "cpu")
    assert "not from π_sft" in plan.warnings[0]
    assert len(rows) == plan.counts["train_prompts"]
    assert all([c["sample_index"] for c in row["candidates"]] == list(range(6)) for row in rows)
    assert {row["baseline"]["sample_index"] for row in rows} == {-1}
    assert counted["decodes"] == counted["truncated"] + 1 == 6 * len(rows)
    assert counted["single_answer_prompts"] == len(rows) - 1
    assert any("does it sample at all?" in event.message for event in chain.events if isinstance(event, Log))
    assert (counted["retries"], counted["round_trip_mismatches"]) == (1, 7 * len(rows) - 1)
    assert counted["cost"] == counted["prompt_tokens"] == 7 * 7 * len(rows)
    good = next(c for row in rows for c in row["candidates"] if not c["truncated"])
    bad = rows[-1]["candidates"][-1]
    assert len(good["token_ids"]) == len(bad["token_ids"]) + 1  # what was cut off has no end
    assert len({body["seed"] for body in bodies}) == len(bodies) == 7 * len(rows)
    assert bodies[0]["messages"][-1]["content"].endswith("TL;DR:")

    with serving(fails(500)) as server:  # another run, the same questions: nobody is asked
        far(server.address)
        again = chain.run_stage(plan, "sampling")
        assert server.asked == []
    assert again[0].digest == chain.digest(plan, "sampling")
    assert again[0].summary["answers_cached"] == 7 * len(rows)


def test_runs_without_an_endpoint_keep_the_pool_they_had(chain: Chain, far: Any) -> None:
    far("http://127.0.0.1:9/v1")
    mine, theirs = (chain.plan(toy_config(sampling=part)).stage("sampling") for part in ({}, {"endpoint": "far"}))
    assert mine.fingerprint != theirs.fingerprint
    assert "endpoint" not in mine.config["sampling"]
