"""A float32 weight in two halves: nothing of it is lost but one unit of the last place of numbers exactly half-way."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rso_core.adafactor import Adafactor
from rso_core.split_weights import SplitWeight


def held(values: Tensor) -> SplitWeight:
    found = SplitWeight(torch.zeros(values.shape, dtype=torch.bfloat16))
    found.write(values)
    return found


def test_any_float32_comes_back_and_the_model_has_its_rounding() -> None:
    bits = torch.randint(-(1 << 31), 1 << 31, (700, 1000), generator=torch.Generator().manual_seed(0))
    values = bits.to(torch.int32).view(torch.float32)
    values = torch.where(values.abs() < 3e38, values, 0.5)  # NaN and what rounds to infinity are refused before a step
    values[0, :4] = torch.tensor([0.0, -0.0, 1e-40, 1.0])
    found = held(values)

    lost = values.view(torch.int32) - found.read().view(torch.int32)
    half_way = (values.view(torch.int32) & 0xFFFF) == 0x8000
    assert 0 < int(half_way.sum()) < 50
    assert set(lost[half_way].tolist()) == {0, 1}
    assert not lost[~half_way].any()
    assert torch.equal(found.rounded, values.to(torch.bfloat16))


@given(st.integers(0, (1 << 16) - 1), st.booleans())
def test_a_number_half_way_between_two_roundings_stays_on_its_side(high: int, negative: bool) -> None:  # noqa: FBT001 - drawn
    bits = ((high & 0x7F7F) << 16) | 0x8000
    value = torch.tensor([[bits - (1 << 31) if negative else bits]], dtype=torch.int32).view(torch.float32)
    found = held(value)
    assert abs(int(found.read().view(torch.int32)) - int(value.view(torch.int32))) <= 1
    assert torch.equal(found.rounded, value.to(torch.bfloat16))
    assert torch.equal(found.read().to(torch.bfloat16), found.rounded)


def test_rows_are_read_and_written_by_themselves() -> None:
    values = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    found = held(values)
    found.write(torch.full((2, 5), 1.00001), (slice(2, 4),))
    assert torch.equal(found.read((slice(2, 4),)), torch.full((2, 5), 1.00001))
    assert torch.equal(found.read((slice(0, 2),)), values[:2])
    assert torch.equal(found.read((slice(4, 6),)), values[4:])


@pytest.mark.parametrize("shape", [(300, 700), (3, 40, 50)])
def test_adafactor_changes_a_split_weight_as_a_whole_one(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(2)
    whole = torch.randn(shape, generator=random).to(torch.bfloat16).float()
    split = SplitWeight(whole.to(torch.bfloat16))
    handle = torch.full((1,), torch.nan).expand(shape).requires_grad_()
    plain, other = Adafactor([whole], lr=0.01), Adafactor([handle], lr=0.01, splits={handle: split})
    for _ in range(4):
        whole.grad = torch.randn(shape, generator=random)
        handle.grad = whole.grad.clone()
        plain.step()
        other.step()
    torch.testing.assert_close(split.read(), whole, rtol=3e-7, atol=1e-9)
    assert torch.equal(split.rounded, split.read().to(torch.bfloat16))


@pytest.mark.parametrize(
    ("weight", "serves"),
    [
        (torch.zeros(2, 2, dtype=torch.bfloat16), True),
        (torch.zeros(2, dtype=torch.bfloat16), False),
        (torch.zeros(2, 2), False),
        (torch.zeros(2, 3, dtype=torch.bfloat16).T, False),
    ],
)
def test_matrices_in_bfloat16_are_split(weight: Tensor, serves: bool) -> None:  # noqa: FBT001 - a case
    assert SplitWeight.serves(weight) is serves
