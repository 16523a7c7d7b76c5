from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from rso_core.gradient_sinks import Sink, add_in_blocks, add_product, embedded, give_sink
from rso_core.token_log_probs import token_log_probs
from rso_core.trained_weights import Weights

IDS = torch.tensor([[4, 1, 4], [0, 2, 1]])


def with_sink(weight: Tensor) -> Tensor:
    total = torch.zeros(weight.shape)
    give_sink(weight, Sink(lambda: nullcontext(total)))
    return total


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("padding", [None, 1])
def test_an_embedding_adds_to_its_sink_what_autograd_would_collect(padding: int | None) -> None:
    plain, sunk = (nn.Embedding(6, 3, padding_idx=padding, _weight=drawn(6, 3)) for _ in range(2))
    total = with_sink(sunk.weight)

    for _ in range(2):  # micro-batches are added up
        rows = embedded(sunk, IDS)
        assert torch.equal(rows, embedded(plain, IDS))
        (rows * drawn(2, 3, 3)).sum().backward()
        (embedded(plain, IDS) * drawn(2, 3, 3)).sum().backward()

    assert sunk.weight.grad is None
    assert plain.weight.grad is not None
    torch.testing.assert_close(total, plain.weight.grad)


def test_an_embedding_that_does_more_than_look_up_is_taken_as_it_is() -> None:
    scaled = nn.Embedding(6, 3, scale_grad_by_freq=True)
    total = with_sink(scaled.weight)

    embedded(scaled, IDS).sum().backward()

    assert not total.any()
    assert scaled.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_output_layer_adds_to_its_sink_what_autograd_would_collect(dtype: torch.dtype) -> None:
    hidden, targets = drawn(7, 4).to(dtype).requires_grad_(), torch.tensor([0, 3, 8, 8, 1, 2, 5])
    plain, sunk = (nn.Linear(4, 9, bias=False).to(dtype) for _ in range(2))
    sunk.load_state_dict(plain.state_dict())
    total = with_sink(sunk.weight)

    token_log_probs(hidden, sunk, targets, chunk=3).sum().backward()
    token_log_probs(hidden, plain, targets, chunk=3).sum().backward()

    assert sunk.weight.grad is None
    assert plain.weight.grad is not None
    torch.testing.assert_close(
        total, plain.weight.grad.float(), atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0.02
    )


def test_sums_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right, start = drawn(5, 11).bfloat16(), drawn(5, 3).bfloat16(), drawn(11, 3)
    part = drawn(11, 3).bfloat16()
    monkeypatch.setattr("rso_core.gradient_sinks.BLOCK", 4)
    monkeypatch.setattr("rso_core.gradient_sinks._PRODUCT", 6)
    product, sum_ = start.clone(), start.clone()

    add_product(product, left, right)
    add_in_blocks(sum_, part)

    torch.testing.assert_close(product, start + (left.T @ right).float(), atol=0.02, rtol=0.01)
    assert torch.equal(sum_, start + part.float())


class Tied(nn.Module):
    """An embedding that is the output layer too, as in small language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 3), nn.Linear(3, 6, bias=False)
        self.embedding.weight.data.copy_(drawn(6, 3))
        self.head.weight = self.embedding.weight

    def loss(self) -> Tensor:
        return token_log_probs(embedded(self.embedding, IDS.flatten()), self.head, IDS.flatten()).sum()


def test_a_tied_weight_has_the_gradient_of_both_its_uses_and_only_of_this_step() -> None:
    exact, half = Tied(), Tied().bfloat16()
    exact.loss().backward()  # type: ignore[no-untyped-call]
    weights = Weights(half)
    for _ in range(2):
        weights.begin()
        half.loss().backward()  # type: ignore[no-untyped-call]
        (found,) = weights.gradients()
        assert exact.embedding.weight.grad is not None
        torch.testing.assert_close(found, exact.embedding.weight.grad, atol=0.03, rtol=0.03)

    weights.release()
    half.loss().backward()  # type: ignore[no-untyped-call]
    assert half.embedding.weight.grad is not None
