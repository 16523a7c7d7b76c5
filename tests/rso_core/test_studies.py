"""Studies: expansion into cells, clear refusals, the paper's presets and figures."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.studies import Cell, cells, dump_study, extended, parse_seeds, parse_study, setting_paths, study_of
from rso_core.study_bundle import as_markdown, columns_of, reward_models
from rso_core.study_presets import mini_base, preset_study, printed_tables, study_presets
from rso_core.study_results import CellRecord, DoneStage, judged_counts

GRID = {"fitting.gamma": [0.1, 0.5], "pairs.pair_source": ["direct", "rso_sample_rank"]}
LOSSES = ("sigmoid_norm", "hinge", "hinge_norm")


def study(**changes: Any) -> Any:
    return study_of({"name": "γ", "base": mini_base(), "grid": GRID, "seeds": [10, 11], **changes})


def test_a_grid_has_an_arm_for_every_combination_and_a_cell_for_every_seed() -> None:
    found = cells(study(arms=[{"key": "other", "changes": {"fitting.loss": "hinge"}}]))

    assert [(cell.arm, cell.seed) for cell in found[:5]] == [
        ("0.1 direct", 10),
        ("0.1 rso_sample_rank", 10),
        ("0.5 direct", 10),
        ("0.5 rso_sample_rank", 10),
        ("other", 10),
    ]
    assert len(found) == 10
    assert found[1].config.fitting.gamma == 0.1
    assert found[4].config.fitting.loss == "hinge"
    assert found[1].config.name == "γ · 0.1 rso_sample_rank · seed 10"


def test_a_seed_draws_other_data_where_the_base_says_so() -> None:
    config = cells(study())[-1].config

    assert (config.seed, config.data.preferences) == (11, "mini_tldr:size=6000,seed=11")
    assert config.model.base == "mini_tldr:family=causal,seed=11"


def test_a_study_without_a_grid_is_its_base_at_every_seed() -> None:
    assert [cell.arm for cell in cells(study(grid={}))] == ["base", "base"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": {"fitting.gama": [1]}}, "no setting 'fitting.gama'; did you mean fitting.gamma"),
        ({"grid": {"fitting": [1]}}, "no setting 'fitting'"),
        ({"grid": {"seed": [1]}}, "an arm cannot change `seed`"),
        ({"grid": {"fitting.gamma": [-1]}}, "the arm '-1' is not possible: fitting.gamma: Input should be greater than 0"),
        ({"grid": {"fitting.gamma": [0.5, "0.5"]}}, "each arm has its own name, got '0.5' twice"),
        ({"arms": [{"key": "again", "changes": {"fitting.gamma": 0.1, "pairs.pair_source": "direct"}}]}, "'0.1 direct' and 'again' are the same recipe"),
        ({"grid": {"rejection_sampling.num_samples": [128]}}, "must be at most `sampling.num_candidates`, got 128 of 64"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"seeds": [3, 3]}, "each seed counts once, got 3 more than once"),
        ({"seeds": list(range(300))}, "at most 1000 cells (arms × seeds), got 1200"),
        ({"name": ""}, "name: String should have at least 1 character"),
        ({"other": 1}, "other: Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as raised:
        study(**changes)
    assert words in str(raised.value)


def test_a_study_survives_yaml_and_a_bundle() -> None:
    made = study(grid={"rejection_sampling.beta": [0, 0.5, "inf"]})

    assert parse_study(dump_study(made)) == made
    assert parse_study(f'{{"study": {made.model_dump_json()}, "rows": []}}') == made
    assert cells(made)[2].config.rejection_sampling.beta == float("inf")


def test_extending_keeps_what_is_there_and_adds_the_rest_once() -> None:
    more = extended(study(), seeds=[11, 12], grid={"fitting.gamma": [0.5, 1.0]})

    assert more.seeds == (10, 11, 12)
    assert more.grid["fitting.gamma"] == (0.1, 0.5, 1.0)
    kept = {cell.config.model_dump_json() for cell in cells(more)}
    assert {cell.config.model_dump_json() for cell in cells(study())} <= kept
    with pytest.raises(UserError, match=r"not 'fitting\.loss'; make a new study"):
        extended(study(), grid={"fitting.loss": ["hinge"]})


@given(st.lists(st.integers(0, 400), min_size=1, max_size=8, unique=True))
def test_seeds_are_read_as_they_are_written(seeds: list[int]) -> None:
    assert parse_seeds(", ".join(map(str, seeds))) == seeds


def test_seeds_may_be_ranges() -> None:
    assert parse_seeds("0, 10-12 20") == [0, 10, 11, 12, 20]
    for wrong in ("a", "5-3", "1-", "-1", "0-5000"):
        with pytest.raises(UserError, match="seeds are whole numbers and ranges like 10-14"):
            parse_seeds(wrong)


def test_every_setting_of_a_recipe_can_be_varied() -> None:
    paths = set(setting_paths())

    assert {"seed", "task", "fitting.gamma", "rejection_sampling.beta", "data.sft"} <= paths
    assert "fitting" not in paths


@pytest.mark.parametrize("name", study_presets())
def test_a_preset_is_a_study_whose_arms_have_the_papers_rows(name: str) -> None:
    preset, made = study_presets()[name], preset_study(name, base=mini_base(name), seeds=[10])

    keys = {arm.key for arm in made.all_arms}
    for table in preset.paper.values():
        assert set(table.rows) <= keys
        assert {len(row) for row in table.rows.values()} == {len(table.metrics)}
    assert made.preset == name


def test_table_6_asks_for_prompts_and_takes_mini_news_on_the_built_in_task() -> None:
    with pytest.raises(UserError, match=r"Table 6 needs `data\.prompts` in the base recipe, which is empty"):
        preset_study("table_6", base=mini_base(), seeds=[3])
    (first, *_) = cells(preset_study("table_6", base=mini_base("table_6"), seeds=[3]))
    assert first.config.data.prompts == "mini_news:size=3000,seed=3"


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="no preset is called 'table_9'; there are table_1, table_2"):
        preset_study("table_9", base=mini_base(), seeds=[0])


def test_the_papers_figures_are_those_of_the_task() -> None:
    made = preset_study("table_1", base=mini_base(), seeds=[0])

    (table,) = printed_tables(made).values()
    assert table.figures("hinge_norm rso_sample_rank") == {"proxy": 92.80, "gold": 83.45, "auto_sxs": 70.84}
    assert table.figures("an arm of ours") == {}
    assert printed_tables(study()) == {}


def test_in_the_papers_table_1_rso_is_above_sft_above_direct_for_every_loss_and_metric() -> None:
    """A slip of the pen in the file would most likely break this shape, or the sums below."""
    for table in study_presets()["table_1"].paper.values():
        for loss in LOSSES:
            direct, sft, rso = (table.rows[f"{loss} {s}"] for s in ("direct", "sft_sample_rank", "rso_sample_rank"))
            assert all(a < b < c for a, b, c in zip(direct, sft, rso, strict=True))


@pytest.mark.parametrize(
    ("name", "sums"),
    [
        ("table_1", {"tldr": 924.42 + 831.93 + 699.80, "hh": 740.72 + 513.12 + 321.46}),
        ("table_2", {"tldr": 545.09 + 420.55}),
        ("table_5", {"tldr": 451.74 + 338.05}),
        ("table_3", {"tldr": 289.83 + 256.70, "hh": 269.29 + 189.85}),
    ],
)
def test_the_papers_figures_add_up_to_what_was_added_by_hand(name: str, sums: dict[str, float]) -> None:
    for data, table in study_presets()[name].paper.items():
        assert sum(sum(row) for row in table.rows.values()) == pytest.approx(sums[data], abs=1e-6)


def done(seed: int, summaries: dict[str, dict[str, Any]]) -> CellRecord:
    """Return a cell with finished stages; those of one key that say the same are one artifact."""
    stages = {key: DoneStage(key, "", "", f"{key} {summary}", summary) for key, summary in summaries.items()}
    return CellRecord(Cell("arm", seed, RunConfig.model_construct()), stages)


def test_the_gold_reward_model_of_a_study_is_told_from_the_one_that_trains() -> None:
    records = [
        done(seed, {"reward_training": {"heldout_pairs": 1}, "gold_reward_training": {"heldout_pairs": 2 + seed}})
        for seed in range(2)
    ]

    assert [(model["metric"], model["seeds"], model["heldout_pairs"]) for model in reward_models(records)] == [
        ("proxy", [0, 1], 1),
        ("gold", [0], 2),
        ("gold", [1], 3),
    ]


def test_what_a_judge_could_not_say_is_counted_once_and_has_a_column() -> None:
    said = {"prompts": 32, "samples": 128, "unparseable": 120, "outcomes": {"unjudged": 30}}
    records = [
        done(seed, {"auto_sxs_sft": said, "auto_sxs_policy": said | {"seed": seed}, "win_rate_sft": {}})
        for seed in range(2)
    ]
    found = judged_counts(records)

    assert found == {"prompts": 96, "samples": 384, "unparseable": 360, "unjudged": 90}
    assert judged_counts([done(0, {"win_rate_sft": {"prompts": 32}})]) is None
    figures = {"proxy": {"value": 0.5, "low": 0.4, "high": 0.6, "seeds": 1}}
    bundle = {
        "rows": [{"arm": "a", "settings": {}, "figures": figures, "paper": {}}],
        "sft": figures,
        "comparisons": [],
    }
    assert columns_of(bundle) == ["proxy"]
    assert columns_of(bundle | {"auto_sxs": found}) == ["proxy", "auto_sxs"]
    assert as_markdown(bundle | {"auto_sxs": found}).splitlines()[-1] == "| a | 50.0 ± 10.0 | – |"
