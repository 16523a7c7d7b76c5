import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rso_core.artifacts import ArtifactStore, iterate_rows
from rso_core.errors import UserError
from rso_core.protocol import Event, Log, Metrics, Progress, StageSpec
from rso_core.run_data import assign_split
from rso_core.stages import ModelCache, execute
from rso_core.stages_evaluation import outcome
from rso_core.vocabulary import Family, Message, canonical_json, transcript
from tests.rso_core.chain import PROMPTS, Chain, dataset_row, import_model, import_rows, product, toy_config
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
METHODS = ({"method": "full"}, {"method": "lora", "lora_rank": 2})
AT_START = {"sigmoid_norm": math.log(2), "hinge_norm": 1.0}


class Killed(Exception):  # noqa: N818 - what happens to the process, not an error of it
    pass


@pytest.fixture(scope="module", params=FAMILIES)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """One store for the tests of a family: what one run has made the next one reuses."""
    return Chain(tmp_path_factory.mktemp("chain"), request.param)


@pytest.mark.parametrize("model", METHODS, ids=["full", "lora"])
def test_a_run_goes_from_preferences_to_an_evaluated_policy(chain: Chain, model: dict[str, Any]) -> None:
    plan = chain.run(toy_config(model={"base": "toy", **model}))

    assert plan.stage("sampling").shards == 2
    report = chain.report(plan)
    assert report["policy"]["proxy"]["n"] == plan.counts["test_prompts"]
    assert -1 <= report["difference"]["proxy"]["low"] <= report["difference"]["proxy"]["high"] <= 1
    assert len(report["side_by_sides"]) == 5
    assert (chain.store.path(chain.digest(plan, "checkpoint_selection")) / "model" / "config.json").exists()


def test_the_gold_reward_model_measures_beside_the_proxy(chain: Chain) -> None:
    config = toy_config(evaluation={"gold": "reward_model"}, gold_reward={"share": 0.4, "learning_rate": 0.05})
    plan = chain.run(config)

    report = chain.report(plan)
    assert report["policy"]["gold"]["n"] == report["policy"]["proxy"]["n"] == plan.counts["test_prompts"]
    assert report["difference"]["gold"]["low"] <= report["difference"]["gold"]["value"]
    rows = chain.rows(plan, "win_rate_policy")
    assert all(row["gold_win"] == outcome(row["gold_probability"]) for row in rows)
    assert [row["gold_probability"] for row in rows] != [row["probability"] for row in rows]
    trained = chain.summary(plan, "gold_reward_training")
    assert trained["pairs"] == plan.counts["gold_train_pairs"]
    assert trained["calibration"][0]["accuracy"]["n"] == trained["accuracy"]["n"]


def test_nothing_is_lost_between_the_stages(chain: Chain) -> None:
    plan = chain.run(toy_config())
    prompts = plan.counts["train_prompts"]

    pool, scores = chain.rows(plan, "sampling"), chain.rows(plan, "scoring")
    assert len(pool) == len({row["prompt_id"] for row in pool}) == prompts
    assert all([c["sample_index"] for c in row["candidates"]] == list(range(6)) for row in pool)
    assert [row["prompt_id"] for row in scores] == [row["prompt_id"] for row in pool]
    assert all(len(row["rewards"]) == 6 for row in scores)
    kept, pairs = chain.rows(plan, "rejection_sampling"), chain.rows(plan, "pairs")
    assert [row["prompt_id"] for row in kept] == [row["prompt_id"] for row in pool]
    for before, after in zip(pool, kept, strict=True):
        indices = [candidate["sample_index"] for candidate in after["kept"]]
        assert len(set(indices)) == 4
        assert [before["candidates"][i] for i in indices] == after["kept"]
    summary = chain.summary(plan, "pairs")
    assert summary["pairs"] + summary["dropped_ties"] == 2 * prompts
    assert len(pairs) == summary["pairs"]
    texts = {(row["prompt_id"], c["sample_index"]): c["text"] for row in kept for c in row["kept"]}
    assert all(texts[pair["prompt_id"], pair["chosen_index"]] == pair["chosen"] for pair in pairs)
    assert all(pair["probability"] > 0.5 for pair in pairs)


def test_the_baseline_is_a_decode_of_its_own(chain: Chain) -> None:
    plan = chain.run(toy_config(), until="sampling")

    assert all(row["baseline"]["sample_index"] == -1 for row in chain.rows(plan, "sampling"))
    assert (
        sum(part["decodes"] for part in chain.summaries[plan.stage("sampling").fingerprint])
        == 6 * plan.counts["train_prompts"]
    )


@pytest.mark.parametrize(
    "choice",
    product(
        pair_source=["direct", "sft_sample_rank", "rso_sample_rank"],
        ranking=["first_round_rank", "tournament_rank"],
        loss=["sigmoid_norm", "hinge", "hinge_norm"],
    ),
    ids=lambda choice: "-".join(choice.values()),
)
def test_every_cell_of_the_grid_fits_and_starts_where_it_must(chain: Chain, choice: dict[str, str]) -> None:
    pairs = {"pair_source": choice["pair_source"], "ranking": choice["ranking"]}
    plan = chain.run(toy_config(pairs=pairs, fitting={"loss": choice["loss"]}), until="policy_fitting")

    fit = chain.summary(plan, "policy_fitting")
    made = chain.summary(plan, "pairs")
    games = {"first_round_rank": 2, "tournament_rank": 3}[choice["ranking"]]
    if choice["pair_source"] == "direct":
        assert made["pairs"] + made["excluded_rows"] == plan.counts["preference_train_pairs"]
    else:
        assert made["pairs"] + made["dropped_ties"] == games * plan.counts["train_prompts"]
    assert fit["pairs"] == made["pairs"]
    if choice["loss"] in AT_START:
        assert fit["first"]["loss"] == pytest.approx(AT_START[choice["loss"]], abs=1e-4)
    snapshots = chain.store.path(chain.digest(plan, "policy_fitting")) / "checkpoints"
    assert sorted(folder.name for folder in snapshots.iterdir()) == ["step-000002", "step-000004"]


def test_lora_starts_from_the_reference_too(chain: Chain) -> None:
    plan = chain.run(toy_config(model={"base": "toy", **METHODS[1]}), until="policy_fitting")

    assert chain.summary(plan, "policy_fitting")["first"]["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_random_samples_are_rejection_sampling_at_infinite_temperature(chain: Chain) -> None:
    control = chain.run(toy_config(pairs={"pair_source": "sft_sample_rank"}), until="rejection_sampling")
    limit = chain.run(toy_config(rejection_sampling={"num_samples": 4, "beta": math.inf}), until="rejection_sampling")

    kept = [
        [[c["sample_index"] for c in row["kept"]] for row in chain.rows(plan, "rejection_sampling")]
        for plan in (control, limit)
    ]
    assert kept[0] == kept[1]


def test_a_run_in_another_store_has_the_same_digests(chain: Chain, tmp_path: Path) -> None:
    plan = chain.run(toy_config())
    family: Family = "causal" if chain.cache.load(*_base(chain)).family == "causal" else "seq2seq"
    other = Chain(tmp_path, family)
    again = other.run(toy_config())

    assert [stage.fingerprint for stage in again.stages] == [stage.fingerprint for stage in plan.stages]
    for stage in again.stages:
        if stage.kind != "length_profile":
            assert other.digests[stage.fingerprint] == chain.digests[stage.fingerprint], stage.key
            assert other.summaries[stage.fingerprint] == chain.summaries[stage.fingerprint], stage.key


def _base(chain: Chain) -> tuple[Path, str, str]:
    digest = chain.models["toy"]
    return chain.store.path(digest) / "model", digest, "float32"


@pytest.mark.parametrize("key", ["sft", "reward_training", "policy_fitting"])
@pytest.mark.parametrize("killed_after", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_killed_and_started_again_leaves_the_same_artifact(
    chain: Chain, key: str, killed_after: int, dtype: str
) -> None:
    config = toy_config(model={"base": "toy", "dtype": dtype})
    plan = chain.run(config, until=key)
    stage = plan.stage(key)
    expected = chain.digests[stage.fingerprint]
    chain.store.discard_checkpoints(stage.fingerprint)

    def die(event: Event) -> None:
        if isinstance(event, Metrics) and event.step == killed_after:
            raise Killed

    with pytest.raises(Killed):
        execute(chain.spec(plan, stage), chain.store, die, chain.cache)
    events: list[Event] = []
    result = execute(chain.spec(plan, stage), chain.store, events.append, chain.cache)

    assert result.digest == expected
    assert result.summary == chain.summary(plan, key)
    resumed = [event.message for event in events if isinstance(event, Log) and "resumed" in event.message]
    assert resumed == ([] if killed_after <= 2 else [f"resumed after step 2 of {result.summary['steps']}"])


def test_an_interrupted_stage_leaves_nothing_in_staging(chain: Chain) -> None:
    plan = chain.run(toy_config(), until="pairs")

    def die(event: Event) -> None:
        if isinstance(event, Progress) and event.done:
            raise Killed

    with pytest.raises(Killed):
        execute(chain.spec(plan, plan.stage("scoring")), chain.store, die, chain.cache)
    assert list((chain.store.root / "staging").iterdir()) == []


def test_an_attempt_removes_what_killed_ones_left_but_not_what_a_later_one_writes(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    work, other = "sampling-1", "sampling-11"
    killed, later, elsewhere = store.staging(work, 1), store.staging(work, 3), store.staging(other)
    mine = store.staging(work, 2)
    assert [folder.exists() for folder in (killed, later, elsewhere, mine)] == [False, True, True, True]


def test_no_test_prompt_is_seen_before_evaluation(chain: Chain) -> None:
    plan = chain.run(toy_config())
    split = plan.stage("sft").config["split"]
    trained_on = {
        row["prompt_id"] for key in ("sampling", "rejection_sampling", "pairs") for row in chain.rows(plan, key)
    }
    evaluated = chain.rows(plan, "generation_policy")

    assert {row["prompt_id"] for row in evaluated}.isdisjoint(trained_on)
    assert {assign_split(row["root"], split) for row in evaluated} == {"test"}
    roots = {row["root"] for row in evaluated}
    assert len(roots) == plan.counts["test_prompts"]
    assert Counter(row["prompt_id"] for row in evaluated).most_common(1)[0][1] == 1
    assert plan.counts["train_prompts"] + plan.counts["validation_prompts"] + plan.counts["test_prompts"] == PROMPTS


def test_the_checkpoint_with_the_highest_validation_win_rate_is_kept(chain: Chain) -> None:
    plan = chain.run(toy_config())
    selection = chain.summary(plan, "checkpoint_selection")

    rates = {item["step"]: item["win_rate"]["value"] for item in selection["checkpoints"]}
    assert sorted(rates) == [2, 4]
    assert all(item["win_rate"]["n"] == plan.counts["validation_prompts"] for item in selection["checkpoints"])
    best = max(rates.values())
    assert selection["selected_step"] == min(step for step, rate in rates.items() if rate == best)


def test_without_selection_the_last_checkpoint_is_kept(chain: Chain) -> None:
    plan = chain.run(toy_config(fitting={"select_by": "last"}), until="checkpoint_selection")

    assert chain.summary(plan, "checkpoint_selection") == {"selected_step": 4, "checkpoints": []}


def test_shards_give_the_pool_that_one_piece_of_work_gives(chain: Chain) -> None:
    sampling = {"num_candidates": 6, "batch_size": 32, "temperature": 1.0}
    split = chain.run(toy_config(sampling={**sampling, "prompts_per_shard": 16}), until="scoring")
    whole = chain.run(toy_config(sampling={**sampling, "prompts_per_shard": 100}), until="scoring")

    assert whole.stage("sampling").shards == 1
    for key in ("sampling", "scoring"):
        assert chain.rows(split, key) == chain.rows(whole, key)


def test_the_model_that_was_used_least_recently_makes_room(tmp_path: Path) -> None:
    folders = [toy_model(tmp_path / str(seed), "causal", seed=seed) for seed in range(3)]
    cache = ModelCache(size=2)
    first, second = (cache.load(folder, folder.name, "float32") for folder in folders[:2])

    assert cache.load(folders[0], "0", "float32") is first
    cache.load(folders[2], "2", "float32")
    assert cache.load(folders[0], "0", "float32") is first
    assert cache.load(folders[1], "1", "float32") is not second


def test_sft_that_is_off_leaves_the_base_model(chain: Chain) -> None:
    plan = chain.run(toy_config(sft={"enabled": False}), until="sft")

    base, copy = (
        chain.store.path(d) / "model" / "model.safetensors" for d in (chain.models["toy"], chain.digest(plan, "sft"))
    )
    assert base.read_bytes() == copy.read_bytes()


def test_targets_that_are_all_too_long_are_an_error_of_the_user(chain: Chain) -> None:
    plan = chain.plan(toy_config(data={"max_response_tokens": 4}))

    with pytest.raises(
        UserError, match=r"all \d+ training targets are longer than 4 tokens; raise data.max_response_tokens"
    ):
        chain.run_stage(plan, "sft")


def test_a_reward_model_that_cannot_hold_two_responses_says_what_to_raise(chain: Chain) -> None:
    plan = chain.plan(toy_config(reward={"max_length": 8}))
    chain.run_stage(plan, "sft")

    with pytest.raises(UserError, match=r"raise reward\.max_length"):
        chain.run_stage(plan, "reward_training")


def test_a_prompt_written_in_two_ways_has_one_form_in_the_pairs(tmp_path: Path) -> None:
    turns: list[Message] = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "no"},
    ]
    text = transcript(turns)
    one = dataset_row(1, text, chosen="good cat", rejected="bad dog")
    other = {**dataset_row(2, text, chosen="red dog", rejected="blue tree"), "messages": canonical_json(turns)}
    store = ArtifactStore(str(tmp_path / "store"))
    config = {
        "task": "dialogue", "prompt_template": "plain", "max_prompt_tokens": 64, "max_response_tokens": 8,
        "pair_source": "direct", "split": {"seed": 0, "validation_fraction": 0.0, "test_fraction": 0.0},
    }  # fmt: skip
    inputs = {"policy": import_model(store, "causal"), "preferences": import_rows(store, "preference", [one, other])}

    result = execute(
        StageSpec(kind="preference_pairs", fingerprint="f" * 64, config=config, inputs=inputs), store, lambda _: None
    )

    first, second = iterate_rows(store.files(result.digest))
    assert first["prompt_id"] == second["prompt_id"]
    assert first["prompt_token_ids"] == second["prompt_token_ids"]
