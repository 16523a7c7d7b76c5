from collections import Counter

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


def test_long_prompts_come_first_and_short_ones_share_a_pass() -> None:
    sizes = Sizes([2, 2, 3, 3, 9, 9], [10, 10, 5, 5, 1, 1], ["a", "a", "b", "b", "c", "c"])
    batch = [(index, 0) for index in range(6)]

    def cut(budget: Budget) -> list[list[int]]:
        return [[index for index, _ in part] for part in micro_batches(batch, sizes, budget)]

    assert cut(Budget(tokens=25)) == [[4, 5], [0, 1, 2, 3]]
    assert cut(Budget(tokens=12)) == [[0], [1], [2, 3], [4], [5]]
    assert cut(Budget(items=4)) == [[4, 5, 0, 1], [2, 3]]
    assert cut(Budget()) == [[4, 5, 0, 1, 2, 3]]


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
