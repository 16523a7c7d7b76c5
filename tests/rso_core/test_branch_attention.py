from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, MistralConfig

from rso_core.branch_attention import Branches, branch_attention, branch_cache, with_normaliser
from rso_core.kv_cache import ROOM

HEADS, SHARED, WIDTH, COLUMNS = 6, 2, 8, 5
CPU = torch.device("cpu")


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """One query [heads, width] over keys and values [shared heads, tokens, width]."""
    group = HEADS // SHARED
    key, value = key.repeat_interleave(group, dim=0), value.repeat_interleave(group, dim=0)
    weights = torch.softmax((key @ query[:, :, None]).squeeze(2) * scaling, dim=1)
    return (weights[:, :, None] * value).sum(dim=1)


def test_a_row_attends_to_its_prompt_and_to_its_own_tokens() -> None:
    prompt_of = [1, 0, 1, 1, 0]
    prompts = [(random(SHARED, n, WIDTH, seed=n), random(SHARED, n, WIDTH, seed=n + 1)) for n in (3, 11)]
    query = random(5, HEADS, 1, WIDTH, seed=1)
    key, value = random(5, SHARED, COLUMNS, WIDTH, seed=2), random(5, SHARED, COLUMNS, WIDTH, seed=3)
    shown = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]).bool()
    order = torch.tensor([1, 4, 0, 2, 3])
    scores = torch.zeros(shown.shape).masked_fill(~shown, -torch.inf)[:, None, None]

    found = branch_attention(
        query,
        key,
        value,
        [(2, *prompts[0]), (3, *prompts[1])],
        order=order,
        inverse=order.argsort(),
        hidden=scores,
        scaling=0.5,
    )

    for row, prompt in enumerate(prompt_of):
        keys = torch.cat([prompts[prompt][0], key[row][:, shown[row]]], dim=1)
        values = torch.cat([prompts[prompt][1], value[row][:, shown[row]]], dim=1)
        torch.testing.assert_close(found[row, 0], plain_attention(query[row, :, 0], keys, values, 0.5))


@pytest.mark.parametrize("value_width", [WIDTH, WIDTH + 2])
def test_the_normaliser_is_the_log_of_the_sum_of_exponentials(value_width: int) -> None:
    query, key, value = random(3, 7, WIDTH, seed=1), random(3, 9, WIDTH, seed=2), random(3, 9, value_width, seed=3)

    output, normaliser = with_normaliser(query, key, value, 0.7)

    scores = (query @ key.transpose(1, 2)) * 0.7
    torch.testing.assert_close(output, torch.softmax(scores, dim=-1) @ value)
    torch.testing.assert_close(normaliser, torch.logsumexp(scores, dim=-1))


def test_rows_take_the_first_column_that_no_row_in_flight_holds() -> None:
    branches = Branches(2, CPU)
    branches.start(torch.tensor([0, 1]), prompt=4)
    columns = []
    for step in range(6):
        if step == 2:  # a new row begins in the place of the first one
            branches.end(torch.tensor([0]))
            branches.start(torch.tensor([0]), prompt=5)
        if step == 4:  # now nothing holds the first two columns
            branches.end(torch.tensor([1]))
            branches.start(torch.tensor([1]), prompt=5)
        branches.advance()
        columns.append(branches.column)

    assert columns == [0, 1, 2, 3, 0, 1]
    assert branches.width == 4
    assert branches.hidden is not None
    assert (branches.hidden[:, 0, 0] == 0).tolist() == [[True] * 4, [True, True, False, False]]


def test_rows_that_are_nobodys_see_the_newest_column_and_read_a_prompt_that_is_there() -> None:
    branches = Branches(3, CPU)
    branches.start(torch.tensor([0, 1, 2]), prompt=1)
    branches.advance()
    branches.end(torch.tensor([1]))
    branches.start(torch.tensor([0]), prompt=2)

    branches.advance()

    assert branches.hidden is not None
    assert (branches.hidden[1, 0, 0] == 0).tolist() == [False, True]
    assert [prompt for prompt, _ in branches.layout()[0]] == [1, 2]
    assert sum(rows for _, rows in branches.layout()[0]) == 3


def test_columns_are_added_when_rows_live_long() -> None:
    branches = Branches(1, CPU)
    branches.start(torch.tensor([0]), prompt=0)
    config = LlamaConfig(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, hidden_size=16)
    cache: Any = branch_cache(config, branches)
    written = random(ROOM + 5, 1, 2, 1, WIDTH, seed=0)

    for step in range(ROOM + 5):
        branches.advance()
        keys, values = cache.update(written[step], -written[step], 0)

    assert branches.column == ROOM + 4
    assert branches.hidden is None
    assert torch.equal(keys, written.permute(1, 2, 0, 3, 4).squeeze(3))
    assert torch.equal(values, -keys)


def test_a_model_with_sliding_windows_gets_no_branch_cache() -> None:
    config = MistralConfig(num_hidden_layers=2, sliding_window=8)

    assert branch_cache(config, Branches(1, CPU)) is None
