import math

import numpy as np
import pytest

from rso_core.length_control import length_controlled


def draw(count: int, intercept: float, slope: float, mean: float, seed: int) -> tuple[list[float], list[float]]:
    """Outcomes of a judge to whom a response is worth `intercept` at equal length and `slope` a standard deviation more."""
    generator = np.random.default_rng(seed)
    lengths = generator.normal(mean, 40, count)
    chance = 1 / (1 + np.exp(-(intercept + slope * lengths / 40)))
    return (generator.random(count) < chance).astype(float).tolist(), lengths.tolist()


def test_a_judge_who_likes_length_is_seen_through() -> None:
    outcomes, lengths = draw(4000, intercept=-0.4, slope=1.5, mean=60, seed=1)
    found = length_controlled(outcomes, lengths, range(4000))
    assert found is not None
    assert np.mean(outcomes) > 0.75
    assert found.low < 1 / (1 + math.exp(0.4)) < found.high
    assert found.high - found.low < 0.12


def test_the_maximum_of_the_likelihood_is_found() -> None:
    outcomes, lengths = draw(60, intercept=0.3, slope=-0.8, mean=10, seed=2)
    found = length_controlled(outcomes, lengths, range(60))
    assert found is not None
    x, y = np.array(lengths) / np.std(lengths), np.array(outcomes)

    def likelihood(a: float, b: float) -> float:
        z = a + b * x
        return float(np.sum(y * z - np.logaddexp(0, z)))

    intercept = math.log(found.value / (1 - found.value))
    grid = [likelihood(a, b) for a in np.linspace(-3, 3, 121) for b in np.linspace(-3, 3, 121)]
    assert max(likelihood(intercept, b) for b in np.linspace(-3, 3, 601)) >= max(grid) - 1e-4


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    hits = 0
    for seed in range(300):
        found = length_controlled(*draw(150, 0.5, 0.7, 20, seed), range(150))
        assert found is not None
        hits += found.low <= 1 / (1 + math.exp(-0.5)) <= found.high
    assert 0.91 < hits / 300 < 0.985


def test_where_no_lengths_differ_it_is_the_plain_rate_and_ties_count_half() -> None:
    found = length_controlled([1, 0, 0.5, 1], [0, 0, 0, 0], ["a", "b", "c", "d"])
    assert found is not None
    assert found.value == pytest.approx(0.625)


def test_scale_of_the_lengths_and_order_of_the_rows_change_nothing() -> None:
    outcomes, lengths = draw(80, 0.2, 0.5, 5, seed=3)
    clusters = [i // 2 for i in range(80)]
    found = length_controlled(outcomes, lengths, clusters)
    scaled = length_controlled(outcomes[::-1], [7 * value for value in lengths[::-1]], clusters[::-1])
    assert found is not None
    assert scaled is not None
    assert vars(scaled) == pytest.approx(vars(found))


def test_prompts_of_one_conversation_are_not_independent() -> None:
    outcomes, lengths = draw(60, 0.2, 0.5, 5, seed=4)
    twice = [value for value in outcomes for _ in range(4)], [value for value in lengths for _ in range(4)]
    alone = length_controlled(outcomes, lengths, range(60))
    together = length_controlled(*twice, [i // 4 for i in range(240)])
    assert alone is not None
    assert together is not None
    assert together.high - together.low == pytest.approx(alone.high - alone.low)


@pytest.mark.parametrize(
    ("outcomes", "lengths", "clusters"),
    [
        ([1, 1, 1], [1, 2, 3], "abc"),
        ([0, 0, 0], [1, 2, 3], "abc"),
        ([0, 0, 1, 1], [-2, -1, 1, 2], "abcd"),  # length decides every game
        ([1, 0, 1], [1, 2, 3], "aaa"),
    ],
)
def test_what_cannot_be_told_is_not_told(outcomes: list[float], lengths: list[float], clusters: str) -> None:
    assert length_controlled(outcomes, lengths, clusters) is None


def test_inputs_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be equally long, got \(2,\), \(3,\) and 2"):
        length_controlled([1, 0], [1, 2, 3], "ab")
