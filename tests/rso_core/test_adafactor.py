import copy
import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers.optimization import Adafactor as Reference

from rso_core import adafactor
from rso_core.adafactor import Adafactor

SHAPES = ((7,), (1, 5), (6, 1), (33, 17), (2, 3, 9, 4), ())


def weights(seed: int) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return [(torch.randn(shape, generator=drawn) * 3**i).requires_grad_() for i, shape in enumerate(SHAPES)]


def give_gradients(params: Sequence[Tensor], step: int) -> None:
    drawn = torch.Generator().manual_seed(100 + step)
    for i, param in enumerate(params):
        param.grad = torch.randn(param.shape, generator=drawn) * 10.0 ** (step - i)


def reference(params: Sequence[Tensor], rate: float) -> Reference:
    return Reference(params, lr=rate, scale_parameter=True, relative_step=False)


@pytest.mark.parametrize("block", [1, 40, 1 << 17])
@pytest.mark.parametrize("rate", [1e-5, 0.1])
def test_it_changes_weights_as_transformers_adafactor_does(
    monkeypatch: pytest.MonkeyPatch, block: int, rate: float
) -> None:
    monkeypatch.setattr(adafactor, "_BLOCK", block)
    mine, theirs = weights(1), weights(1)
    ours, other = Adafactor(mine, lr=rate), reference(theirs, rate)
    for step in range(4):
        for params in (mine, theirs):
            give_gradients(params, step)
        before = [param.detach().clone() for param in mine]
        ours.step()
        other.step()
        for old, param, wanted in zip(before, mine, theirs, strict=True):
            moved = (wanted.detach() - old).norm()
            assert moved > 0
            torch.testing.assert_close(param, wanted, rtol=1e-6, atol=float(moved) * 1e-5)


def test_a_state_of_transformers_adafactor_goes_on_here() -> None:
    """Checkpoints of before hold its state."""
    theirs = weights(2)
    other = reference(theirs, 0.01)
    give_gradients(theirs, 1)
    other.step()
    mine = [param.detach().clone().requires_grad_() for param in theirs]
    ours = Adafactor(mine, lr=0.01)
    ours.load_state_dict(copy.deepcopy(other.state_dict()))  # as a file would bring it
    for params in (mine, theirs):
        give_gradients(params, 2)
    ours.step()
    other.step()
    for param, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(param, wanted)


def test_copies_are_the_rounded_weights_and_weights_without_a_gradient_stay() -> None:
    params = weights(3)
    copies = {param: param.detach().bfloat16() for param in params}
    ours = Adafactor(params, lr=0.1, copies=copies)
    give_gradients(params, 1)
    params[3].grad = None
    kept = params[3].detach().clone()
    ours.step()
    assert torch.equal(params[3], kept)
    for i, (param, rounded) in enumerate(copies.items()):
        assert torch.equal(rounded, param.detach().bfloat16())
        assert i == 3 or not torch.equal(param.detach(), weights(3)[i].detach())


def test_a_gradient_of_zero_changes_nothing() -> None:
    params = weights(4)
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    Adafactor(params, lr=0.1).step()
    assert all(torch.equal(old, param) for old, param in zip(before, params, strict=True))


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="no closure"), warnings.catch_warnings():
        Adafactor(weights(5), lr=0.1).step(lambda: 1.0)
