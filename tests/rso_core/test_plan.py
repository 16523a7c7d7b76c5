import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rso_core.artifacts import ArtifactStore, Row, iterate_rows
from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.plan import CODE_VERSIONS, Plan, refuse_gold_in_training
from rso_core.planner import build_plan
from rso_core.run_data import RunData, assign_split, choose_prompts, is_in_split, split_settings
from rso_core.vocabulary import SPLITS, Split
from tests.rso_core.chain import PROMPTS, dataset_row, import_rows, texts, toy_config

POSTS = texts(PROMPTS, 6, seed=1)
RATES = {"win_rate_policy", "generation_policy", "report", "checkpoint_figures"}
AFTER_PAIRS = {"reference_log_probs", "policy_fitting", "checkpoint_selection"} | RATES


def data_of(folder: Path, targets: list[Row], pairs: list[Row]) -> RunData:
    store = ArtifactStore(str(folder / "store"))
    datasets = {"targets": import_rows(store, "sft", targets), "pairs": import_rows(store, "preference", pairs)}
    return RunData(store, datasets, {"toy": "a" * 64})


def target_rows() -> list[Row]:
    return [dataset_row(i, post, target="a") for i, post in enumerate(POSTS, 1)]


def pair_rows() -> list[Row]:
    return [dataset_row(i, post, chosen="a", rejected="b") for i, post in enumerate(POSTS, 1)]


@pytest.fixture
def data(tmp_path: Path) -> RunData:
    return data_of(tmp_path, target_rows(), pair_rows())


def root_in(split: Split, config: RunConfig) -> str:
    """A conversation root that the configuration puts into a split."""
    return next(f"root {i}" for i in range(1000) if assign_split(f"root {i}", split_settings(config)) == split)


def new_stages(before: Plan, after: Plan) -> set[str]:
    """The keys of the stages that the second plan does not share with the first."""
    known = {stage.fingerprint for stage in before.stages}
    return {stage.key for stage in after.stages if stage.fingerprint not in known}


@pytest.mark.parametrize(("first", "second"), [("train", "validation"), ("train", "test"), ("validation", "test")])
def test_a_prompt_in_two_splits_is_refused(tmp_path: Path, first: Split, second: Split) -> None:
    config, targets, pairs = toy_config(), target_rows(), pair_rows()
    targets[0]["root"], pairs[0]["root"] = root_in(first, config), root_in(second, config)
    data = data_of(tmp_path, targets, pairs)

    with pytest.raises(UserError, match=f"1 prompts would be in both {first} and {second}.*Import the data again"):
        build_plan(config, data)


def test_the_turns_of_a_conversation_are_in_one_split_in_every_dataset(tmp_path: Path) -> None:
    targets, pairs = target_rows(), pair_rows()
    for number, (target, pair) in enumerate(zip(targets, reversed(pairs), strict=True)):
        target["root"] = pair["root"] = f"conversation {number // 4}"
    root_of = {str(row["prompt_id"]): str(row["root"]) for row in targets}
    for row in pairs:
        row["root"] = root_of[str(row["prompt_id"])]
    data = data_of(tmp_path, targets, pairs)

    for seed in range(20):
        settings = split_settings(toy_config(data={"split_seed": seed}))
        splits = [data.prompts_by_split(name, settings) for name in ("targets", "pairs")]
        assert splits[0] == splits[1]
        roots = {split: {root_of[prompt] for prompt in splits[0][split]} for split in SPLITS}
        assert sum(len(found) for found in roots.values()) == PROMPTS // 4
        assert set().union(*roots.values()) == set(root_of.values())


@pytest.mark.parametrize(
    ("parts", "new"),
    [
        ({"name": "another name"}, set()),
        ({"evaluation": {"bootstrap_draws": 300}}, {"win_rate_sft", "win_rate_policy", "report", "checkpoint_figures"}),
        ({"fitting": {"select_by": "last"}}, {"checkpoint_selection"} | RATES),
        ({"fitting": {"gamma": 0.5}}, {"policy_fitting", "checkpoint_selection"} | RATES),
        ({"pairs": {"ranking": "tournament_rank"}}, {"pairs"} | AFTER_PAIRS),
        ({"rejection_sampling": {"beta": 0.1}}, {"rejection_sampling", "pairs"} | AFTER_PAIRS),
        ({"pairs": {"pair_source": "sft_sample_rank"}}, {"rejection_sampling", "pairs"} | AFTER_PAIRS),
        ({"pairs": {"pair_source": "direct"}}, {"pairs"} | AFTER_PAIRS),
        ({"sampling": {"temperature": 0.5}}, {"sampling", "scoring", "rejection_sampling", "pairs"} | AFTER_PAIRS),
    ],
)
def test_runs_share_every_stage_that_does_not_depend_on_what_differs(
    data: RunData, parts: dict[str, Any], new: set[str]
) -> None:
    base = toy_config()
    other = toy_config(
        **{
            name: {**base.model_dump()[name], **part} if isinstance(part, dict) else part
            for name, part in parts.items()
        }
    )
    assert new_stages(build_plan(base, data), build_plan(other, data)) == new


def test_a_raised_code_version_makes_the_stage_and_what_needs_it_new(
    data: RunData, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build_plan(toy_config(), data)
    monkeypatch.setitem(CODE_VERSIONS, "rejection_sampling", CODE_VERSIONS["rejection_sampling"] + 1)
    assert new_stages(before, build_plan(toy_config(), data)) == {"rejection_sampling", "pairs"} | AFTER_PAIRS


@pytest.mark.parametrize("pair_source", ["direct", "sft_sample_rank", "rso_sample_rank"])
def test_a_stage_needs_only_stages_before_it(data: RunData, pair_source: str) -> None:
    done: set[str] = set()
    for stage in build_plan(toy_config(pairs={"pair_source": pair_source}), data).stages:
        assert set(stage.needs.values()) <= done
        done.add(stage.key)


def test_prompts_are_counted_per_split_and_limited(data: RunData) -> None:
    all_of_them = build_plan(toy_config(), data).counts
    assert sum(all_of_them[f"{split}_prompts"] for split in SPLITS) == PROMPTS

    few = build_plan(toy_config(sampling={"max_prompts": 5, "prompts_per_shard": 2}), data)
    assert few.counts["train_prompts"] == 5
    assert [few.stage(key).shards for key in ("sampling", "scoring", "rejection_sampling")] == [3, 3, 1]


def test_prompts_are_drawn_by_seed_alone() -> None:
    ids = [f"p{i}" for i in range(50)]
    chosen = choose_prompts(ids, 10, seed=1)
    assert choose_prompts(ids[::-1], 10, seed=1) == chosen
    assert choose_prompts(ids, 20, seed=1)[:10] == chosen
    assert choose_prompts(ids, 10, seed=2) != chosen
    assert sorted(choose_prompts(ids, 0, seed=1)) == sorted(ids)


def test_an_empty_split_is_refused_with_what_to_do(tmp_path: Path) -> None:
    config = toy_config()
    root = root_in("train", config)
    rows = [[{**row, "root": root} for row in made] for made in (target_rows(), pair_rows())]
    with pytest.raises(
        UserError, match="no validation prompts: give that split a larger fraction, or import more data"
    ):
        build_plan(config, data_of(tmp_path, *rows))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"data": {"sft": "nothing"}}, "no dataset is called 'nothing'; known: pairs, targets. Import it first"),
        ({"model": {"base": "nothing"}}, "no model is called 'nothing'; known: toy. Import it first"),
    ],
)
def test_a_name_that_nothing_has_is_told_with_those_there_are(
    data: RunData, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_plan(toy_config(**parts), data)


# The gold reward model

GOLD = {"evaluation": {"gold": "reward_model"}}


def parts_of(data: RunData, plan: Plan) -> dict[str, set[str]]:
    """The training conversations that each reader of D_hf sees."""
    table = list(iterate_rows(data._store.files(data.dataset("pairs"))))
    split = {key: plan.stage(key).config["split"] for key in ("reward_training", "gold_reward_training", "pairs")}
    return {
        key: {row["root"] for row in table if is_in_split(row["root"], "train", settings)}
        for key, settings in split.items()
    }


def test_the_gold_reward_model_has_conversations_of_its_own(data: RunData) -> None:
    config = toy_config(**GOLD, gold_reward={"share": 0.4}, pairs={"pair_source": "direct"})
    plan = build_plan(config, data)

    seen = parts_of(data, plan)

    whole = {row["root"] for row in pair_rows() if assign_split(str(row["root"]), split_settings(config)) == "train"}
    assert seen["reward_training"] == seen["pairs"]
    assert seen["reward_training"] | seen["gold_reward_training"] == whole
    assert not seen["reward_training"] & seen["gold_reward_training"]
    assert plan.counts["preference_train_pairs"] == len(seen["reward_training"]) > 0
    assert plan.counts["gold_train_pairs"] == len(seen["gold_reward_training"]) > 0


def test_only_measuring_stages_need_the_gold_reward_model(data: RunData) -> None:
    plan = build_plan(toy_config(**GOLD, gold_reward={"share": 0.4}), data)
    users = {stage.key for stage in plan.stages if "gold_reward_training" in stage.needs.values()}
    assert users == {"win_rate_sft", "win_rate_policy", "checkpoint_figures"}


def test_a_gold_reward_model_that_is_the_training_one_is_refused(data: RunData) -> None:
    base = toy_config()
    same = base.reward.model_dump(exclude={"start_from", "model"})
    with pytest.raises(UserError, match=r"would be the training reward model itself.*gold_reward\.share"):
        build_plan(toy_config(**GOLD, gold_reward=same), data)
    for other in ({"max_steps": 5}, {"share": 0.4}):
        assert build_plan(toy_config(**GOLD, gold_reward=same | other), data).stage("gold_reward_training")


def test_a_training_stage_that_needs_the_gold_reward_model_is_refused(data: RunData) -> None:
    stages = list(build_plan(toy_config(**GOLD, gold_reward={"share": 0.4}), data).stages)
    number = next(i for i, stage in enumerate(stages) if stage.key == "scoring")
    needs = {**stages[number].needs, "reward_model": "gold_reward_training"}
    stages[number] = dataclasses.replace(stages[number], needs=needs)
    with pytest.raises(
        ValueError, match="`scoring` must not need the gold reward model: only checkpoint_figures, win_rate may"
    ):
        refuse_gold_in_training(stages)


def test_without_a_gold_reward_model_nothing_is_divided(data: RunData) -> None:
    plan = build_plan(toy_config(gold_reward={"share": 0.4}), data)
    assert new_stages(build_plan(toy_config(), data), plan) == set()


def test_a_gold_dataset_takes_part_in_the_check_of_splits(tmp_path: Path) -> None:
    config, others = toy_config(**GOLD, gold_reward={"preferences": "others"}), pair_rows()
    others[0]["root"] = root_in("train", config)
    targets = target_rows()
    targets[0]["root"] = root_in("test", config)
    data = data_of(tmp_path, targets, pair_rows()[1:])
    data = RunData(
        data._store, {**data._datasets, "others": import_rows(data._store, "preference", others)}, data._models
    )
    with pytest.raises(UserError, match="1 prompts would be in both train and test"):
        build_plan(config, data)


def test_a_share_and_a_dataset_for_the_gold_reward_model_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="give `preferences` or `share`"):
        toy_config(gold_reward={"preferences": "others", "share": 0.5})
