"""A figure with its interval says nothing that cannot be."""

import pytest

from webapp.human_eval.templatetags.results import coefficient, mean_interval, signed_interval
from webapp.runs.templatetags.studio import interval, spread


def test_a_rate_stands_with_half_the_width_of_its_interval_and_with_n() -> None:
    shown = interval({"value": 0.719, "low": 0.698, "high": 0.740, "n": 600})
    assert "71.9\u00a0%" in shown
    assert "± 2.1" in shown
    assert "(N\u00a0600)" in shown


@pytest.mark.parametrize(
    ("value", "low", "high", "words"), [(0.0, 0.0, 0.264, "0.0 to 26.4"), (1, 0.54, 1, "54.0 to 100.0")]
)
def test_a_share_at_the_edge_shows_where_its_interval_ends(value: float, low: float, high: float, words: str) -> None:
    shown = interval({"value": value, "low": low, "high": high, "n": 12})
    assert words in shown
    assert "±" not in shown


def test_only_a_clearly_lopsided_interval_is_written_out() -> None:
    assert spread(35.0, 66.7, 88.2, "{:.1f}") == "± 26.6"
    assert spread(0.0, 3.0, 12.0, "{:.1f}") == "0.0 to 12.0"
    assert spread(2.0, 2.0, 2.0, "{:.1f}") == "± 0.0"


def test_means_and_differences_follow_the_same_rule_with_true_minus_signs() -> None:
    assert "± 0.07" in mean_interval({"value": 3.84, "low": 3.77, "high": 3.91, "n": 200})
    assert "−0.50 to +0.10" in signed_interval({"value": 0.05, "low": -0.5, "high": 0.1, "n": 200})


def test_nothing_is_negative_zero() -> None:
    assert [coefficient(value) for value in (-0.001, 0.001, -0.009, None)] == ["0.00", "0.00", "−0.01", "–"]
