import math
from pathlib import Path
from typing import Any

import pytest

from rso_core.config import PRESETS, RunConfig, dump_run_config, load_run_config, parse_run_config
from rso_core.errors import UserError

LEAST: dict[str, Any] = {
    "name": "a run",
    "task": "dialogue",
    "data": {"preferences": "pairs", "sft": "targets"},
    "model": {"base": "tiny"},
}


def test_what_is_not_set_is_the_papers() -> None:
    config = RunConfig.model_validate(LEAST)
    assert config.rejection_sampling.beta == 0.5
    assert (config.sampling.num_candidates, config.rejection_sampling.num_samples) == (64, 8)
    assert (config.sampling.temperature, config.sampling.top_k) == (0.7, 40)
    assert (config.fitting.loss, config.fitting.gamma) == ("sigmoid_norm", 0.05)
    assert (config.fitting.optimizer, config.fitting.learning_rate, config.fitting.batch_size) == (
        "adafactor",
        1e-5,
        32,
    )
    assert (config.pairs.pair_source, config.pairs.ranking) == ("rso_sample_rank", "first_round_rank")
    assert config.fitting.select_by == "proxy_win_rate"
    assert config.fitting.dropout == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_a_run(preset: str) -> None:
    config = RunConfig.model_validate(LEAST | PRESETS[preset])
    assert parse_run_config(dump_run_config(config)) == config


def test_an_infinite_temperature_survives_a_recipe() -> None:
    config = RunConfig.model_validate(LEAST | {"rejection_sampling": {"beta": math.inf}})
    assert parse_run_config(dump_run_config(config)) == config


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"data": LEAST["data"] | {"validation_fraction": 0.5, "test_fraction": 0.5}},
            r"below 1 .* got 0.5 \+ 0.5; lower",
        ),
        ({"reward": {"start_from": "model"}}, "`model` must be named exactly when .* got start_from=model"),
        ({"reward": {"model": "other"}}, "`model` must be named exactly when .* model='other'"),
        ({"rejection_sampling": {"num_samples": 65}}, "at most `sampling.num_candidates`, got 65 of 64"),
        ({"fitting": {"gamma": 0}}, r"fitting.gamma: .*greater than 0 \(received 0\)"),
        ({"fitting": {"learning_rate": math.nan}}, r"fitting.learning_rate: .*\(received nan\)"),
        (
            {"rejection_sampling": {"beta": -1}},
            r"rejection_sampling.beta: .*greater than or equal to 0 \(received -1\)",
        ),
        (
            {"fitting": {"loss": "cross_entropy"}},
            "`fitting.loss` is cross_entropy exactly where .* got cross_entropy with rso",
        ),
        ({"pairs": {"pair_source": "best_candidate"}}, "exactly where .* got sigmoid_norm with best_candidate"),
        (
            {"rounds": {"count": 2}, "pairs": {"pair_source": "direct"}},
            "above 1 needs candidates .* got 2 rounds of direct",
        ),
        ({"fitting": {"gama": 1}}, r"fitting.gama: .*not permitted \(received 1\)"),
    ],
)
def test_what_cannot_be_is_told_by_setting_requirement_and_value(parts: dict[str, Any], message: str) -> None:
    import yaml

    with pytest.raises(UserError, match=message):
        parse_run_config(yaml.safe_dump(LEAST | parts))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not valid YAML: .*Mend that line and load it again"),
        ("- a\n- b", "a recipe is a mapping of settings .*received list"),
        ("", "a recipe is a mapping of settings .*received NoneType"),
    ],
)
def test_a_text_that_is_no_recipe_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"(?s){message}"):
        parse_run_config(text)


def test_a_recipe_takes_what_it_does_not_say_from_a_preset_and_from_the_recipe_it_extends(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "base.yaml").write_text(yaml.safe_dump(LEAST | {"fitting": {"gamma": 0.5}, "seed": 4}))
    recipe = tmp_path / "raft.yaml"
    recipe.write_text("extends: base.yaml\npreset: RAFT\nname: mine\npairs: {best_by: pointwise}")

    config = load_run_config(recipe)

    assert (config.name, config.seed, config.task) == ("mine", 4, "dialogue")
    assert (config.pairs.pair_source, config.pairs.best_by) == ("best_candidate", "pointwise")
    assert (config.fitting.loss, config.fitting.gamma) == ("cross_entropy", 0.5)


def test_a_preset_that_is_none_and_a_recipe_that_extends_itself_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`preset` must be one of RSO, .*, received 'PPO'"):
        parse_run_config("preset: PPO")
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {other}.yaml")
    with pytest.raises(UserError, match=r"a\.yaml extends itself; remove `extends`"):
        load_run_config(tmp_path / "a.yaml")
