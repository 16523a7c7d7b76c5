import json
import math
import uuid
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.config import (
    PRESETS,
    DataConfig,
    EvaluationConfig,
    FittingConfig,
    GoldRewardConfig,
    JudgeConfig,
    ModelConfig,
    PairsConfig,
    RejectionSamplingConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
    SftConfig,
    dump_run_config,
    parse_run_config,
)
from rso_core.errors import UserError
from webapp.runs.forms import (
    ESSENTIALS,
    References,
    RunForm,
    form_data,
    prefill,
    preset_data,
    read_recipe,
    schema_fields,
)

REFERENCES = References(
    preferences=[("d", "d")], sft=[("s", "s")], models=[("m", "m"), ("n", "n")], endpoints=[("e", "e")]
)
LEAST = {"name": "run", "task": "dialogue", "data.preferences": "d", "data.sft": "s", "model.base": "m"}

# What a person can type and a browser sends as it is: no control characters, no lone surrogates.
NAMES = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), min_size=1, max_size=120)
FRACTIONS = st.floats(0.01, 0.49)
COUNTS = st.integers(1, 10_000_000)
RATES = st.floats(1e-12, 1)


def trainings(schema: type[Any], **own: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        schema, optimizer=st.sampled_from(["adafactor", "adamw"]), learning_rate=RATES, batch_size=COUNTS, micro_batch_size=COUNTS,
        epochs=st.floats(1e-6, 1000), max_steps=st.integers(0, 10_000_000), max_gradient_norm=st.floats(0, 1e6),
        dropout=st.floats(0, 0.99), checkpoint_every=COUNTS, **own,
    )  # fmt: skip


REWARDS = st.one_of(
    trainings(
        RewardConfig, start_from=st.sampled_from(["base", "sft"]), max_length=COUNTS, order_average=st.booleans()
    ),
    trainings(RewardConfig, start_from=st.just("model"), model=st.just("n"), max_length=COUNTS),
)
CONFIGS = st.builds(
    RunConfig, name=NAMES, task=st.sampled_from(["summarization", "dialogue"]), seed=st.integers(0, 2**31 - 1),
    data=st.builds(
        DataConfig, preferences=st.just("d"), sft=st.just("s"), split_seed=st.integers(0, 2**31 - 1),
        validation_fraction=FRACTIONS, test_fraction=FRACTIONS, max_prompt_tokens=COUNTS, max_response_tokens=COUNTS,
    ),
    model=st.builds(
        ModelConfig, base=st.just("m"), dtype=st.sampled_from(["auto", "float32", "bfloat16"]),
        method=st.sampled_from(["full", "lora"]), lora_rank=st.integers(1, 1024), lora_alpha=st.floats(0.001, 4096),
        prompt_template=st.sampled_from(["auto", "chat", "plain"]),
    ),
    sft=trainings(SftConfig, enabled=st.booleans()), reward=REWARDS, gold_reward=st.one_of(
        trainings(GoldRewardConfig, model=st.sampled_from(["", "n"]), share=st.floats(0, 0.99), max_length=COUNTS),
        trainings(GoldRewardConfig, preferences=st.just("d"), order_average=st.booleans()),
    ),
    sampling=st.builds(
        SamplingConfig, num_candidates=st.integers(64, 4096), temperature=st.floats(0.001, 10), top_k=st.integers(0, 100_000),
        truncated=st.sampled_from(["keep", "exclude"]), batch_size=COUNTS,
    ),
    rejection_sampling=st.builds(
        RejectionSamplingConfig, beta=st.one_of(st.floats(0, 1e9), st.just(math.inf)), num_samples=st.integers(2, 64)
    ),
    pairs=st.builds(
        PairsConfig, pair_source=st.sampled_from(["direct", "sft_sample_rank", "rso_sample_rank"]),
        ranking=st.sampled_from(["first_round_rank", "tournament_rank"]),
    ),
    fitting=trainings(
        FittingConfig, loss=st.sampled_from(["sigmoid_norm", "hinge", "hinge_norm"]), gamma=st.floats(1e-6, 1000),
        num_checkpoints=st.integers(1, 100), select_by=st.sampled_from(["proxy_win_rate", "last"]),
    ),
    evaluation=st.builds(EvaluationConfig, gold=st.sampled_from(["none", "mini_tldr", "reward_model"]), bootstrap_draws=st.integers(200, 100_000)),
    judge=st.one_of(
        st.builds(JudgeConfig, samples=st.integers(2, 32).map(lambda half: 2 * half), accuracy_pairs=st.integers(0, 1000)),
        st.builds(JudgeConfig, backend=st.just("endpoint"), endpoint=st.just("e")),
        st.builds(JudgeConfig, backend=st.just("model"), model=st.just("n"), few_shot=st.sampled_from(["", "context: Post\nresponse: Reply"])),
    ),
)  # fmt: skip


def form(**changes: str) -> RunForm:
    return RunForm(LEAST | changes, references=REFERENCES)


def errors(**changes: str) -> dict[str, list[str]]:
    bound = form(**changes)
    assert not bound.is_valid()
    return {name: [str(error) for error in found] for name, found in bound.errors.items()}


@hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@given(CONFIGS)
def test_a_configuration_survives_the_form_and_json_and_yaml(config: RunConfig) -> None:
    bound = RunForm(form_data(config), references=REFERENCES)
    assert bound.is_valid(), bound.errors
    assert bound.config == config
    shown = RunForm(prefill(form_data(config)), references=REFERENCES)
    assert shown.is_valid(), shown.errors
    assert shown.config == config
    assert RunConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config
    assert parse_run_config(dump_run_config(config)) == config


def test_every_leaf_of_the_schema_is_a_field_with_its_help() -> None:
    fields = form().fields
    schema = dict(schema_fields())
    assert list(fields) == list(schema)
    assert {path: field.help_text for path, field in fields.items()} == {
        path: info.description for path, info in schema.items()
    }


def test_every_field_is_shown_once() -> None:
    bound = form()
    shown = [item.path for item in bound.essentials] + [
        item.path for section in bound.sections for item in section.items
    ]
    assert sorted(shown) == sorted(bound.fields)
    assert [item.path for item in bound.essentials] == list(ESSENTIALS)


def test_an_empty_field_means_the_papers_value_and_shows_it() -> None:
    bound = form(**{"fitting.gamma": "", "rejection_sampling.beta": ""})
    assert bound.is_valid()
    assert (bound.config.fitting.gamma, bound.config.rejection_sampling.beta) == (0.05, 0.5)
    assert 'placeholder="0.05"' in str(bound["fitting.gamma"])


def test_a_list_without_a_value_shows_the_papers_choice() -> None:
    for shown in (form(), RunForm(references=REFERENCES)):
        assert '<option value="rso_sample_rank" selected>' in str(shown["pairs.pair_source"])


@pytest.mark.parametrize(
    ("path", "typed", "said"),
    [
        ("fitting.gamma", "0", "Must be more than 0.0, received '0'. The paper’s value is 0.05."),
        ("fitting.gamma", "much", "Must be a number, received 'much'. The paper’s value is 0.05."),
        ("fitting.gamma", "nan", "Must be a finite number, received 'nan'. The paper’s value is 0.05."),
        ("fitting.batch_size", "1.5", "Must be a whole number, received '1.5'. The paper’s value is 32."),
        ("sampling.num_candidates", "1", "Must be at least 2, received '1'. The paper’s value is 64."),
        ("fitting.dropout", "1", "Must be less than 1.0, received '1'. The paper’s value is 0.0."),
        (
            "fitting.loss",
            "dpo",
            "Must be 'sigmoid_norm', 'hinge', 'hinge_norm', 'slic' or 'cross_entropy', received 'dpo'. The paper’s value is sigmoid_norm.",
        ),
        ("sft.enabled", "perhaps", "Must be true or false, received 'perhaps'. The paper’s value is true."),
        ("name", "", "Is required."),
        ("task", "poetry", "Must be 'summarization' or 'dialogue', received 'poetry'."),
        ("model.base", "nowhere", "No model that you can use here is called 'nowhere'; known: m, n. Import it first."),
        ("data.sft", "nowhere", "No dataset that you can use here is called 'nowhere'; known: s. Import it first."),
    ],
)
def test_a_wrong_value_is_explained_beside_its_field(path: str, typed: str, said: str) -> None:
    assert errors(**{path: typed}) == {path: [said]}


def test_a_rule_over_several_fields_is_explained_beside_the_first_it_names() -> None:
    assert "data.validation_fraction" in errors(**{"data.validation_fraction": "0.6", "data.test_fraction": "0.6"})
    assert "rejection_sampling.num_samples" in errors(**{"rejection_sampling.num_samples": "65"})
    assert "reward.model" in errors(**{"reward.start_from": "model"})


def test_unknown_settings_of_a_recipe_are_named() -> None:
    assert errors(**{"fitting.beta": "1"}) == {
        "__all__": ["`fitting.beta` is not a setting; remove it from the recipe."]
    }


def test_what_belongs_to_the_page_is_no_setting() -> None:
    assert form(csrfmiddlewaretoken="x", action="preview", launch_token=str(uuid.uuid4())).is_valid()


def test_a_name_that_nothing_has_is_kept_in_the_list() -> None:
    bound = form(**{"model.base": "gone"})
    assert '<option value="gone" selected>gone · unknown</option>' in str(bound["model.base"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_recognised_and_replaces_what_another_had_changed(name: str) -> None:
    for other in PRESETS:
        values = LEAST | preset_data(other) | preset_data(name)
        assert RunForm(values, references=REFERENCES).preset == name


def test_other_values_are_no_preset() -> None:
    assert form(**{"fitting.loss": "hinge_norm"}).preset == "own"


def test_a_recipe_is_read_right_or_wrong() -> None:
    assert read_recipe("name: a\nfitting: {gamma: 0.1}") == {"name": "a", "fitting.gamma": "0.1"}
    with pytest.raises(UserError, match="not valid YAML"):
        read_recipe("a: [")
    with pytest.raises(UserError, match="received list"):
        read_recipe("- a")


def test_an_endpoint_that_no_admin_has_allowed_is_refused() -> None:
    found = errors(**{"judge.backend": "endpoint", "judge.endpoint": "other"})
    assert found["judge.endpoint"] == [
        "No endpoint that you can use here is called 'other'; known: e. An admin adds endpoints to the file that RSO_ENDPOINTS names."
    ]
