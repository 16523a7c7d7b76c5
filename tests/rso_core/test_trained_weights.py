from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rso_core.config import TrainingConfig
from rso_core.trained_weights import Optimizer, Weights


def model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    parts = nn.ModuleDict({"used": nn.Linear(4, 3), "frozen": nn.Linear(3, 3), "rare": nn.Linear(3, 1)})
    parts["frozen"].requires_grad_(False)
    return parts.to(dtype)


def loss(parts: Any, rows: Tensor, *, rare: bool) -> Tensor:
    hidden = parts["frozen"](parts["used"](rows))
    found: Tensor = parts["rare"](hidden).square().sum() if rare else hidden.square().sum()
    return found


def settings(optimizer: str) -> dict[str, Any]:
    return TrainingConfig(optimizer=optimizer, learning_rate=0.01).model_dump(mode="json")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_micro_batches_are_added_up_in_float32(dtype: torch.dtype) -> None:
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    plain, parts = model(dtype), model(dtype)
    expected: dict[str, Tensor] = {}
    for row in rows:
        loss(plain, row[None], rare=True).backward()  # type: ignore[no-untyped-call]
        for name, param in plain.named_parameters():
            if param.grad is not None:
                expected[name] = expected.get(name, torch.zeros(())) + param.grad.float()
        plain.zero_grad()

    weights = Weights(parts)
    for _ in range(2):  # the second step begins anew
        weights.begin()
        for row in rows:
            loss(parts, row[None], rare=True).backward()  # type: ignore[no-untyped-call]
        found = weights.gradients()

    assert set(expected) == set(weights.masters)
    for name, gradient in zip(weights.masters, found, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_without_a_gradient_in_this_step_has_none(dtype: torch.dtype) -> None:
    parts = model(dtype)
    weights = Weights(parts)
    for rare, count in ((True, 4), (False, 2), (True, 4)):
        weights.begin()
        loss(parts, torch.ones(1, 4, dtype=dtype), rare=rare).backward()  # type: ignore[no-untyped-call]
        assert len(weights.gradients()) == count


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_leaves_the_rounded_masters_in_the_model(dtype: torch.dtype, optimizer: str) -> None:
    parts = model(dtype)
    frozen = parts["frozen"].weight.detach().clone()  # type: ignore[index]
    weights = Weights(parts, splits=optimizer == "adafactor")
    before = {name: value.clone() for name, value in weights.values().items()}
    made = Optimizer(weights, settings(optimizer))
    weights.begin()
    loss(parts, torch.ones(2, 4, dtype=dtype), rare=True).backward()  # type: ignore[no-untyped-call]
    weights.gradients()
    made.step()
    for name, param in weights.params.items():
        assert not torch.equal(weights.values()[name], before[name])
        assert torch.equal(param, weights.values()[name].to(dtype))
    assert torch.equal(parts["frozen"].weight, frozen)  # type: ignore[index]

    weights.restore(before)
    assert all(torch.equal(param, before[name].to(dtype)) for name, param in weights.params.items())


def test_a_released_model_keeps_its_own_gradients() -> None:
    parts = model(torch.bfloat16)
    weights = Weights(parts)
    weights.release()
    loss(parts, torch.ones(1, 4, dtype=torch.bfloat16), rare=True).backward()  # type: ignore[no-untyped-call]
    assert all(param.grad is not None for param in weights.params.values())
    assert all(master.grad is None for master in weights.masters.values())


def test_the_fused_adamw_is_the_plain_one() -> None:
    fused, plain = model(torch.float32), model(torch.float32)
    weights = Weights(fused)
    made = Optimizer(weights, settings("adamw"))
    other = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    for step in range(3):
        rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        weights.begin()
        for parts in (fused, plain):
            loss(parts, rows, rare=True).backward()  # type: ignore[no-untyped-call]
        weights.gradients()
        made.step()
        other.step()
        other.zero_grad()
    for param, wanted in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(param, wanted, rtol=1e-6, atol=1e-7)
