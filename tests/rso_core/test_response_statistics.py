import pytest

from rso_core.response_statistics import distinct_n, variety


def test_known_answers() -> None:
    texts = ["a b a b", "a b c"]
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(texts, 2) == 3 / 5  # a b, b a, b c of five
    assert distinct_n(texts, 3) == 3 / 3
    assert distinct_n(texts, 5) == 0


def test_repetition_lowers_it_and_texts_do_not_run_into_each_other() -> None:
    assert distinct_n(["the same"] * 10, 2) == 1 / 10
    assert distinct_n(["a", "b"], 2) == 0
    assert distinct_n([], 1) == 0


def test_variety_says_length_too() -> None:
    found = variety(["a bc", "a bc d e"])
    assert (found["mean_words"], found["mean_chars"]) == (3, 6)
    assert found["distinct_1"] == 4 / 6
    assert variety([])["mean_words"] == 0


def test_n_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="`n` must be 1 or above, got 0"):
        distinct_n(["a"], 0)
