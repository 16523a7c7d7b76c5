import pytest
import torch
from torch import Tensor

from rso_core.errors import UserError
from rso_core.token_sampling import Sampling, largest, sample_tokens


def sampling(temperature: float = 1.0, top_k: int = 0) -> Sampling:
    return Sampling(temperature=temperature, top_k=top_k, max_new_tokens=1)


def random_logits(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (4 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))).to(dtype)


def test_a_draw_inverts_the_cumulative_distribution() -> None:
    # softmax of log(1, 2, 5) is (1/8, 2/8, 5/8): the boundaries are 0.125 and 0.375.
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0]])).repeat(5, 1)
    uniforms = torch.tensor([0.0, 0.124, 0.126, 0.374, 0.999999], dtype=torch.float64)

    assert sample_tokens(logits, uniforms, sampling()).tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("vocabulary", [300, 64 * 40, 64 * 40 + 17, 5000])
@pytest.mark.parametrize("count", [2, 7])
def test_the_largest_logits_are_those_of_a_whole_sort(vocabulary: int, count: int) -> None:
    logits = random_logits(5, vocabulary)

    values, tokens = largest(logits, count)

    expected = logits.sort(dim=-1, descending=True)
    assert torch.equal(values, expected.values[:, :count])
    assert torch.equal(tokens, expected.indices[:, :count])


def test_equal_logits_are_each_counted_once() -> None:
    # In bfloat16 most of the largest logits have equals.
    logits = random_logits(20, 8000, torch.bfloat16)

    values, tokens = largest(logits, 30)

    assert torch.equal(values, logits.topk(30).values)
    assert torch.equal(values, logits.gather(1, tokens))
    assert all(len(set(row)) == 30 for row in tokens.tolist())


@pytest.mark.parametrize("top_k", [0, 1, 5])
def test_one_row_of_logits_serves_all_random_numbers(top_k: int) -> None:
    logits = random_logits(1, 3000)
    uniforms = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    once = sample_tokens(logits, uniforms, sampling(2.0, top_k))

    assert torch.equal(once, sample_tokens(logits.repeat(50, 1), uniforms, sampling(2.0, top_k)))


@pytest.mark.parametrize("top_k", [0, 1, 5])
@pytest.mark.parametrize("token", [0, 2999])
def test_logits_of_which_one_is_nan_are_refused(top_k: int, token: int) -> None:
    logits = random_logits(3, 3000)
    logits[1, token] = float("nan")

    with pytest.raises(UserError, match="logits are NaN"):
        sample_tokens(logits, torch.full((3,), 0.5, dtype=torch.float64), sampling(1.0, top_k))
