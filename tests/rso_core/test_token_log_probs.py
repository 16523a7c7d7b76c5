import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rso_core.token_log_probs import KEPT_BYTES, _room_for_logits, token_log_probs

VOCABULARY, WIDTH = 19, 6


def definition(hidden: Tensor, head: torch.nn.Module, targets: Tensor) -> Tensor:
    rows = [torch.log_softmax(head(row).float(), dim=-1)[target] for row, target in zip(hidden, targets, strict=True)]
    return torch.stack(rows)


def drawn(tokens: int, *, bias: bool, dtype: torch.dtype = torch.float32) -> tuple[Tensor, torch.nn.Linear, Tensor]:
    torch.manual_seed(tokens)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=bias).to(dtype)
    return torch.randn(tokens, WIDTH, dtype=dtype, requires_grad=True), head, torch.randint(VOCABULARY, (tokens,))


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 20), chunk=st.integers(1, 25), bias=st.booleans())
def test_values_and_gradients_are_those_of_the_definition(tokens: int, chunk: int, bias: bool) -> None:  # noqa: FBT001
    hidden, head, targets = drawn(tokens, bias=bias)
    weights = torch.linspace(-1, 2, tokens)
    inputs = [hidden, *head.parameters()]

    found, expected = token_log_probs(hidden, head, targets, chunk=chunk), definition(hidden, head, targets)

    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, targets = drawn(4, bias=True)
    head.requires_grad_(requires_grad=False)

    token_log_probs(hidden, head, targets).sum().backward()

    assert hidden.grad is not None
    assert head.weight.grad is None
    assert head.bias.grad is None


def test_a_head_with_more_than_one_layer_is_taken_as_it_is() -> None:
    hidden, head, targets = drawn(7, bias=False)
    scaled = torch.nn.Sequential(head, torch.nn.Tanh())

    torch.testing.assert_close(token_log_probs(hidden, scaled, targets, chunk=3), definition(hidden, scaled, targets))


def test_bfloat16_sums_are_taken_in_float32() -> None:
    hidden, head, targets = drawn(9, bias=False, dtype=torch.bfloat16)

    found = token_log_probs(hidden, head, targets)

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, definition(hidden, head, targets), atol=0.02, rtol=0.02)


def test_no_tokens_have_no_log_probs() -> None:
    hidden, head, targets = drawn(0, bias=False)

    assert token_log_probs(hidden, head, targets).shape == (0,)


@pytest.mark.parametrize("bias", [True, False])
def test_kept_logits_give_the_numbers_of_those_made_again(monkeypatch: pytest.MonkeyPatch, *, bias: bool) -> None:
    hidden, head, targets = drawn(11, bias=bias, dtype=torch.bfloat16)
    inputs = [hidden, *head.parameters()]

    def computed() -> list[Tensor]:
        found = token_log_probs(hidden, head, targets, chunk=4)
        first = torch.autograd.grad(found.sum(), inputs, retain_graph=True)
        again = torch.autograd.grad(found.sum(), inputs)  # what was kept is gone: made again
        return [found, *first, *again]

    kept = computed()
    monkeypatch.setattr("rso_core.token_log_probs.KEPT_BYTES", 0)
    for one, other in zip(kept, computed(), strict=True):  # sums over rows are rounded once, not once a chunk
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.02)


def test_logits_are_kept_only_where_they_are_few_and_a_backward_pass_follows() -> None:
    weight = torch.zeros(VOCABULARY, WIDTH, dtype=torch.bfloat16)
    few = torch.zeros(3, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    kept = _room_for_logits(few, weight)
    assert kept is not None
    assert kept.shape == (3, VOCABULARY)
    assert _room_for_logits(few.float(), weight.float()) is None
    assert _room_for_logits(few.expand(KEPT_BYTES // VOCABULARY, 3, WIDTH)[:, 0], weight) is None
    with torch.no_grad():
        assert _room_for_logits(few, weight) is None
