import numpy as np

from rso_core.random_streams import permutation, random_bits, uniforms

COLUMNS = np.arange(5, dtype=np.uint64)


def test_the_numbers_are_those_of_the_published_generator() -> None:
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert random_bits([1234567], 0, COLUMNS)[0].tolist() == expected


def test_a_seed_s_numbers_depend_on_nothing_else() -> None:
    seeds = [0, 7, 2**64 - 1]
    together = random_bits(seeds, 3, COLUMNS)
    for row, seed in zip(together, seeds, strict=True):
        assert (random_bits([seed], 3, COLUMNS[:2])[0] == row[:2]).all()


def test_seeds_draws_and_columns_give_different_numbers() -> None:
    bits = np.concatenate([random_bits(range(50), draw, COLUMNS).ravel() for draw in range(50)])
    assert len(np.unique(bits)) == bits.size


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    values = uniforms(range(2000), 1, np.arange(64, dtype=np.uint64))
    counts, _ = np.histogram(values, bins=64, range=(0, 1))
    statistic = ((counts - values.size / 64) ** 2 / (values.size / 64)).sum()
    # χ² with 63 degrees of freedom: mean 63, standard deviation 11.2.
    assert 63 - 4 * 11.2 < statistic < 63 + 4 * 11.2
    assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.1


def test_every_order_of_three_is_as_likely() -> None:
    orders = [tuple(permutation(seed, 3)) for seed in range(6000)]
    for order in set(orders):
        assert abs(orders.count(order) - 1000) < 4 * (6000 * (1 / 6) * (5 / 6)) ** 0.5
    assert len(set(orders)) == 6
