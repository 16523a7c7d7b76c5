import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.data_order import Blocks, DataOrder, num_steps


def test_a_pass_shows_each_item_once_and_blocks_whole() -> None:
    blocks = [item % 5 for item in range(20)]
    order = DataOrder(blocks, seed=1).span(0, 40)

    for epoch in (0, 1):
        shown = [index for index, at in order if at == epoch]
        assert sorted(shown) == list(range(20))
        assert all(len({blocks[i] for i in shown[start : start + 4]}) == 1 for start in range(0, 20, 4))
    assert [i for i, epoch in order if epoch == 0] != [i for i, epoch in order if epoch == 1]
    assert DataOrder(blocks, seed=1).span(17, 23) == order[17:23]
    assert DataOrder(blocks, seed=2).span(0, 20) != order[:20]


@given(blocks=st.lists(st.integers(0, 5), min_size=1, max_size=30), epoch=st.integers(0, 3))
def test_a_pass_is_the_permuted_blocks_written_as_lists(blocks: list[int], epoch: int) -> None:
    members: dict[int, list[int]] = {}
    for index, block in enumerate(blocks):
        members.setdefault(block, []).append(index)
    order = np.random.default_rng([3, epoch]).permutation(len(members))
    expected = [(index, epoch) for place in order for index in list(members.values())[place]]

    size = len(blocks)
    assert DataOrder(blocks, seed=3).span(epoch * size, (epoch + 1) * size) == expected
    assert [list(found) for found in Blocks(blocks)] == list(members.values())


@pytest.mark.parametrize(
    ("count", "epochs", "max_steps", "steps"),
    [(10, 1.0, 0, 3), (10, 0.5, 0, 2), (8, 2.0, 0, 4), (10, 1.0, 2, 2), (3, 0.01, 0, 1), (10, 1.0, 99, 3)],
)
def test_steps_follow_from_epochs_and_limit(count: int, epochs: float, max_steps: int, steps: int) -> None:
    assert num_steps(count, {"epochs": epochs, "max_steps": max_steps, "batch_size": 4}) == steps
