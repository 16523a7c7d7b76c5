from pathlib import Path
from typing import Any

import pytest

import rso_core
from rso_core.demo import changed
from rso_core.errors import UserError
from rso_core.studies import cell_config, cells, method_of, parse_study, study_of
from rso_core.study_presets import mini_base, mini_tuned, preset_study
from rso_core.study_results import CellRecord, DoneStage, planned_pairs
from rso_core.study_tuning import METHODS, TRIALS, choose, tuning_study, write_tuned

TUNED: dict[str, Any] = {
    "hinge rso_sample_rank": {"fitting.learning_rate": 0.5},
    "hinge sft_sample_rank": {"fitting.learning_rate": 0.25},
}


def finished(cell: Any, rates: list[float], kept: int) -> CellRecord:
    checkpoints = [{"step": 10 * n, "win_rate": {"value": rate}} for n, rate in enumerate(rates, 1)]
    summary = {"selected_step": 10 * (kept + 1), "checkpoints": checkpoints}
    return CellRecord(cell, {"checkpoint_selection": DoneStage("", "checkpoint_selection", "", "d", summary)})


def test_every_method_has_the_same_trials_and_nothing_is_measured_on_test_prompts_but_one() -> None:
    study = tuning_study(mini_base(), [1, 2])
    configs = [cell.config for cell in cells(study)]
    trials = {method: set() for method in {method_of(config) for config in configs}}
    for config in configs:
        trials[method_of(config)].add(config.fitting.learning_rate)
    assert len(trials) == len(METHODS) == 11
    assert {frozenset(rates) for rates in trials.values()} == {frozenset(t["fitting.learning_rate"] for t in TRIALS)}
    assert {config.evaluation.max_test_prompts for config in configs} == {1}


def test_the_trial_with_the_highest_mean_of_its_kept_checkpoints_is_chosen_and_the_first_of_equals() -> None:
    study = tuning_study(mini_base(), [1, 2], methods=[("hinge", "direct"), ("hinge_norm", "direct")])
    rates = {
        "hinge direct · trial 1": [0.6, 0.7], "hinge direct · trial 2": [0.8, 0.7], "hinge direct · trial 3": [0.9, 0.5],
        "hinge_norm direct · trial 1": [0.5, 0.5], "hinge_norm direct · trial 2": [0.5, 0.5], "hinge_norm direct · trial 3": [0.4, 0.6],
    }  # fmt: skip
    found = [finished(cell, [0.99, rates[cell.arm][cell.seed - 1]], kept=1) for cell in cells(study)]
    chosen = choose(study, found)
    assert chosen["hinge direct"]["kept"] == TRIALS[1]
    assert [trial["validation_proxy"] for trial in chosen["hinge direct"]["trials"]] == [0.65, 0.75, 0.7]
    assert chosen["hinge_norm direct"]["kept"] == TRIALS[0]


def test_what_was_kept_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tuning_study(mini_base(), [1], methods=[("hinge", "direct")])
    chosen = choose(study, [finished(cell, [0.5, 0.6], kept=1) for cell in cells(study)])
    write_tuned(tmp_path / "mini_tuned.yaml", study, chosen)
    monkeypatch.setattr("rso_core.study_presets._TUNED", tmp_path / "mini_tuned.yaml")
    assert mini_tuned() == {"hinge direct": TRIALS[0]}


def test_the_file_that_comes_with_the_product_holds_every_method() -> None:
    assert set(mini_tuned()) == {f"{loss} {source}" for loss, source in METHODS}
    assert all(settings in TRIALS for settings in mini_tuned().values())


def test_what_was_tuned_goes_below_what_an_arm_changes_and_into_the_table() -> None:
    study = study_of({
        "name": "s", "base": mini_base(), "seeds": [1], "tuned": TUNED,
        "arms": [
            {"key": "rso", "changes": {"fitting.loss": "hinge"}},
            {"key": "own", "changes": {"fitting.loss": "hinge", "fitting.learning_rate": 0.125}},
            {"key": "slic", "changes": {"fitting.loss": "slic", "pairs.pair_source": "sft_sample_rank"}},
            {"key": "other", "changes": {"fitting.loss": "hinge_norm"}},
        ],
    })  # fmt: skip
    rates = [cell_config(study, arm, 1).fitting.learning_rate for arm in study.arms]
    assert rates == [0.5, 0.125, 0.25, mini_base().fitting.learning_rate]
    assert study.axes == ["fitting.loss", "fitting.learning_rate", "pairs.pair_source"]


def test_methods_are_compared_as_planned_though_each_has_its_own_settings() -> None:
    plain, tuned = (preset_study("table_1", base=mini_base(), seeds=[1], tuned=t) for t in ({}, TUNED))
    assert planned_pairs(tuned) == planned_pairs(plain)
    assert len(planned_pairs(plain)) == 6


def test_a_tuned_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"no setting 'fitting\.rate'"):
        preset_study("table_1", base=mini_base(), seeds=[1], tuned={"hinge direct": {"fitting.rate": 1}})


def test_what_the_command_line_asks_for_goes_before_what_was_tuned() -> None:
    asked = mini_tuned(but={"fitting.learning_rate": 1e-5})
    base = changed(mini_base(), {"fitting.learning_rate": 1e-5})
    study = preset_study("table_1", base=base, seeds=[1], tuned=asked)
    assert {cell.config.fitting.learning_rate for cell in cells(study)} == {1e-5}


def test_the_study_of_real_preferences_is_complete() -> None:
    study = parse_study((Path(rso_core.__file__).parent / "real_study.yaml").read_text(encoding="utf-8"))
    assert len(cells(study)) == 10
    assert {cell.config.evaluation.gold for cell in cells(study)} == {"reward_model"}
