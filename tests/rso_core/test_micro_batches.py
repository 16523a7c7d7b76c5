import time
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.micro_batches import Budget, Place, Sizes, micro_batches, shares


@st.composite
def sized_batches(draw: st.DrawFn) -> tuple[list[Place], Sizes]:
    """Draw items in blocks that share a prompt, and a batch of some of them in the order that training sees."""
    blocks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    owners = [block for block, size in enumerate(blocks) for _ in range(size)]
    lengths = draw(st.lists(st.integers(1, 20), min_size=len(owners), max_size=len(owners)))
    prompts = draw(st.lists(st.integers(0, 30), min_size=len(blocks), max_size=len(blocks)))
    first = draw(st.integers(0, len(owners) - 1))
    places = [(index, 0) for index in range(first, len(owners))] + [(index, 1) for index in range(first)]
    return places, Sizes(lengths, [prompts[owner] for owner in owners], owners)


BUDGETS = st.builds(Budget, items=st.integers(0, 6), tokens=st.integers(0, 80))


def tokens(part: list[Place], sizes: Sizes) -> int:
    """Return the tokens of a micro-batch, each prompt counted once a pass."""
    read = {(int(sizes.blocks[i]), epoch): int(sizes.shared[i]) for i, epoch in part}
    return sum(read.values()) + sum(int(sizes.lengths[i]) for i, _ in part)


@given(drawn=sized_batches(), budget=BUDGETS)
def test_a_batch_is_cut_into_what_the_budget_holds_and_nothing_is_lost(
    drawn: tuple[list[Place], Sizes], budget: Budget
) -> None:
    batch, sizes = drawn
    parts = micro_batches(batch, sizes, budget)

    assert Counter(place for part in parts for place in part) == Counter(batch)
    assert all(len(part) == 1 or budget.holds(len(part), tokens(part, sizes)) for part in parts)


@given(drawn=sized_batches(), budget=BUDGETS)
def test_pairs_of_a_prompt_stay_together_where_the_budget_holds_them(
    drawn: tuple[list[Place], Sizes], budget: Budget
) -> None:
    batch, sizes = drawn
    parts = micro_batches(batch, sizes, budget)

    for block in {(int(sizes.blocks[i]), epoch) for i, epoch in batch}:
        members = [place for place in batch if (int(sizes.blocks[place[0]]), place[1]) == block]
        if budget.holds(len(members), tokens(members, sizes)):
            assert sum(not set(members).isdisjoint(part) for part in parts) == 1


def test_prompts_share_a_pass_where_the_budget_holds_them() -> None:
    sizes = Sizes([2, 2, 3, 3, 9, 9], [10, 10, 5, 5, 1, 1], ["a", "a", "b", "b", "c", "c"])
    batch = [(index, 0) for index in range(6)]

    def cut(budget: Budget) -> list[list[int]]:
        return [[index for index, _ in part] for part in micro_batches(batch, sizes, budget)]

    assert cut(Budget(tokens=25)) == [[0, 1, 2, 3], [4, 5]]
    assert cut(Budget(tokens=12)) == [[0], [1], [2, 3], [4], [5]]
    assert cut(Budget(items=4)) == [[0, 1, 2, 3], [4, 5]]
    assert cut(Budget()) == [[4, 5, 0, 1, 2, 3]]


@given(drawn=sized_batches(), budget=BUDGETS, at_least=st.integers(1, 6))
def test_pieces_are_about_equal_and_as_few_as_asked_for(
    drawn: tuple[list[Place], Sizes], budget: Budget, at_least: int
) -> None:
    batch, sizes = drawn
    few, many = micro_batches(batch, sizes, budget), micro_batches(batch, sizes, budget, at_least=at_least)
    blocks = [list(run) for _, run in groupby(batch, key=lambda place: (int(sizes.blocks[place[0]]), place[1]))]

    assert len(many) >= min(at_least, len(blocks))
    assert len(many) == len(few) or len(many) <= at_least
    if all(budget.holds(len(block), tokens(block, sizes)) for block in blocks):  # none is cut
        loads = [tokens(part, sizes) for part in many]
        assert loads == sorted(loads, reverse=True)
        if not budget.items and not budget.tokens:  # the largest piece exceeds the mean by one block at most
            assert loads[0] <= sum(loads) / len(loads) + max(tokens(block, sizes) for block in blocks)


@pytest.mark.parametrize(
    ("sizes", "budget", "parts"),
    [
        # Filling the emptiest first needs a piece more here than filling one after the other.
        (Sizes([6, 4, 4, 3, 3]), Budget(tokens=10), [[0, 1], [2, 3, 4]]),
        (Sizes([60, 3, 3, 3, 3]), Budget(tokens=10), [[0], [1, 3], [2, 4]]),  # the large one stands alone
    ],
)
def test_no_more_pieces_than_by_filling_one_after_the_other(
    sizes: Sizes, budget: Budget, parts: list[list[int]]
) -> None:
    found = micro_batches([(index, 0) for index in range(5)], sizes, budget)

    assert [[index for index, _ in part] for part in found] == parts


def test_a_batch_of_many_single_items_is_cut_at_once() -> None:
    count = 1024
    start = time.process_time()

    assert len(micro_batches([(i, 0) for i in range(count)], Sizes([5] * count), Budget(items=1))) == count
    assert len(micro_batches([(i, 0) for i in range(count)], Sizes([5] * count), Budget(items=4))) == count // 4
    assert time.process_time() - start < 5


@given(drawn=sized_batches())
def test_an_even_cut_of_single_items_is_even(drawn: tuple[list[Place], Sizes]) -> None:
    batch, sizes = drawn
    alike = Sizes([5] * len(sizes.lengths))
    parts = micro_batches(batch, alike, Budget(tokens=15))

    assert len(parts) == -(-len(batch) // 3)
    assert {len(part) for part in parts} <= {len(batch) // len(parts), -(-len(batch) // len(parts))}


@given(drawn=sized_batches(), count=st.integers(1, 4))
def test_processes_share_a_batch_about_equally_with_prompts_whole(drawn: tuple[list[Place], Sizes], count: int) -> None:
    batch, sizes = drawn
    found = shares(batch, sizes, count)

    assert len(found) == count
    assert Counter(place for share in found for place in share) == Counter(batch)
    blocks = [{(int(sizes.blocks[i]), epoch) for i, epoch in share} for share in found]
    assert sum(map(len, blocks)) == len(set().union(*blocks))  # none is in two shares
    loads = [tokens(share, sizes) for share in found]
    largest = max(
        tokens([place for place in batch if (int(sizes.blocks[place[0]]), place[1]) == b], sizes)
        for b in set().union(*blocks)
    )
    assert max(loads) - min(loads) <= largest


@given(drawn=sized_batches(), budget=BUDGETS, count=st.integers(1, 8))
def test_the_micro_batch_that_is_tried_begins_with_the_largest_block_and_is_within_the_budget(
    drawn: tuple[list[Place], Sizes], budget: Budget, count: int
) -> None:
    _, sizes = drawn
    items = sizes.longest(budget, count)

    assert 1 <= len(items) <= count
    assert len(set(items)) == len(items)
    assert len(items) == 1 or budget.holds(len(items), sizes.together(items))
    totals = np.bincount(sizes.blocks, weights=sizes.lengths)[sizes.blocks] + sizes.shared
    assert totals[items[0]] == totals.max()


@pytest.mark.parametrize(("budget", "half"), [(Budget(items=5), Budget(items=3)), (Budget(tokens=9), Budget(tokens=5))])
def test_half_of_a_budget_is_never_no_limit(budget: Budget, half: Budget) -> None:
    assert budget.halved() == half
    assert Budget(items=1).halved() == Budget(items=1)
