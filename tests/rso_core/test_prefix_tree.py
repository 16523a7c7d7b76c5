import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.packed_layout import Segment
from rso_core.prefix_tree import WORTH, Ids, forest_of, packed_batches, padded_batches, shared_tokens


def ids(*sequences: list[int]) -> list[Ids]:
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


def paths(forest: list[Segment], before: tuple[int, ...] = ()) -> list[list[int]]:
    found = []
    for segment in forest:
        path = (*before, *segment.ids)
        found += paths(list(segment.after), path) if segment.after else [list(path)]
    return found


def tokens(forest: list[Segment]) -> int:
    return sum(len(segment.ids) + tokens(list(segment.after)) for segment in forest)


sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=30).map(sorted)


@given(sequences, st.integers(0, 8))
def test_the_paths_of_a_forest_are_the_sequences_in_order(wished: list[list[int]], worth: int) -> None:
    forest = forest_of(ids(*wished), worth=worth)

    assert paths(forest) == wished
    assert tokens(forest) <= sum(map(len, wished))


@given(sequences, st.integers(1, 40))
def test_batches_hold_every_sequence_once_within_the_budget(wished: list[list[int]], budget: int) -> None:
    batches = list(packed_batches(ids(*wished), budget))

    assert [i for batch in batches for i in batch] == list(range(len(wished)))
    for batch in batches:
        assert len(batch) == 1 or tokens(forest_of(ids(*(wished[i] for i in batch)), worth=1)) <= budget


@given(st.lists(st.integers(1, 20), max_size=30).map(sorted), st.integers(1, 60))
def test_padded_batches_count_their_padding(lengths: list[int], budget: int) -> None:
    batches = list(padded_batches(lengths, budget))

    assert [i for batch in batches for i in batch] == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * lengths[batch[-1]] <= budget for batch in batches)


def test_both_orders_share_the_context_and_one_of_them_the_baseline() -> None:
    context, baseline, candidates = list(range(100, 150)), [7] * 20, [[k, 30 + k] for k in range(40, 44)]
    first = [context + candidate + baseline for candidate in candidates]
    second = [context + baseline + candidate for candidate in candidates]

    (tree,) = forest_of(ids(*sorted(first + second)))

    assert tree.ids == context
    assert [len(part.ids) for part in tree.after] == [20, 22, 22, 22, 22]
    assert [part.ids for part in tree.after[0].after] == candidates


def test_a_beginning_that_saves_little_is_not_shared() -> None:
    few, many = ids([1, 2, 3], [1, 2, 4]), ids(*([*range(40), k] for k in range(3)))

    assert [segment.ids for segment in forest_of(few)] == [[1, 2, 3], [1, 2, 4]]
    assert [len(segment.ids) for segment in forest_of(many)] == [40]
    assert WORTH > 2


@pytest.mark.parametrize("count", [1, 2, 400])
def test_sequences_that_each_begin_the_next_end_with_a_token_of_their_own(count: int) -> None:
    wished = [[5] * k for k in range(1, count + 1)]

    assert paths(forest_of(ids(*wished), worth=1)) == wished


def test_what_two_sequences_share_leaves_a_token_of_each() -> None:
    one, other, longer = ids([1, 2, 3], [1, 2, 4], [1, 2, 3, 5])

    assert (shared_tokens(one, other), shared_tokens(one, longer), shared_tokens(one, one)) == (2, 2, 2)
    assert shared_tokens(*ids([1], [2])) == 0
