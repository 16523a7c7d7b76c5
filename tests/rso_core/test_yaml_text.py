"""YAML of people: read as PyYAML reads it, but for names that are written twice."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rso_core.config import parse_run_config
from rso_core.errors import UserError
from rso_core.yaml_text import read_yaml

scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=8
)


@given(values)
def test_what_repeats_no_name_reads_as_ever(value: object) -> None:
    assert read_yaml(yaml.safe_dump(value)) == value


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 1", "x:\n- {b: 1, a: 2, 'b': 3}", '{"a": {"c": 1, "c": 2}}'])
def test_a_name_written_twice_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"(?s)'[abc]' is written twice in one mapping; keep one of them.*line \d"):
        read_yaml(text)


def test_a_merged_mapping_may_be_written_over_wherever_it_is_used() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}"
    assert read_yaml(text) == yaml.safe_load(text)


def test_a_recipe_with_a_setting_twice_says_which() -> None:
    with pytest.raises(UserError, match="'learning_rate' is written twice"):
        parse_run_config("name: x\nsft:\n  learning_rate: 1\n  learning_rate: 2\n")
