import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, T5Config
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense, T5LayerNorm

from rso_core.lean_layers import make_lean

LLAMA = LlamaConfig(hidden_size=12, num_attention_heads=2, intermediate_size=20)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def norm(kind: type[nn.Module]) -> nn.Module:
    made = kind(12)
    made.weight.data = drawn(12, seed=1)
    return made


LAYERS = [norm(LlamaRMSNorm), norm(T5LayerNorm), LlamaMLP(LLAMA)]


def gradients(layer: nn.Module, hidden: Tensor) -> list[Tensor]:
    found = layer(hidden)
    return list(torch.autograd.grad((found * drawn(*found.shape, seed=3)).sum(), [hidden, *layer.parameters()]))


def lean(layer: nn.Module) -> nn.Module:
    made = nn.ModuleList([copy.deepcopy(layer)])
    make_lean(made)
    return made[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_lean_layer_gives_the_layers_bits_and_gradients(
    layer: nn.Module, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rso_core.lean_layers._BLOCK", 24)  # two rows at a time
    plain = copy.deepcopy(layer).to(dtype)
    changed = lean(plain)
    hidden = drawn(2, 5, 12, seed=2).to(dtype).requires_grad_()
    before = hidden.detach().clone()

    assert type(changed) is not type(plain)
    assert isinstance(changed, type(plain))
    assert torch.equal(changed(hidden), plain(hidden))
    for ours, theirs in zip(gradients(changed, hidden), gradients(plain, hidden), strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(ours, theirs, atol=tolerance * float(theirs.abs().max()), rtol=tolerance)
    assert torch.equal(hidden, before)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_the_gradient_of_a_lean_layer_is_that_of_finite_differences(layer: nn.Module) -> None:
    changed = lean(layer)
    hidden = drawn(3, 12, seed=4).requires_grad_()
    (found,) = torch.autograd.grad(changed(hidden).square().sum(), hidden)
    step = 1e-2
    direction = drawn(3, 12, seed=5)
    with torch.no_grad():
        above, below = (changed(hidden + sign * step * direction).square().sum() for sign in (1, -1))
    torch.testing.assert_close((found * direction).sum(), (above - below) / (2 * step), rtol=1e-2, atol=1e-3)


def test_layers_of_another_kind_stay_as_they_are() -> None:
    biased = LlamaMLP(LlamaConfig(hidden_size=12, num_attention_heads=2, intermediate_size=20, mlp_bias=True))
    gelu = LlamaMLP(LlamaConfig(hidden_size=12, num_attention_heads=2, intermediate_size=20, hidden_act="gelu"))
    for layer in (GemmaRMSNorm(12), biased, gelu, T5DenseGatedActDense(T5Config(d_model=12, d_ff=20))):
        assert type(lean(layer)) is type(layer)


def test_adapters_put_into_a_lean_layer_are_used() -> None:
    changed = lean(LlamaMLP(LLAMA))
    hidden = drawn(4, 12).requires_grad_()
    changed.down_proj = nn.Sequential(changed.down_proj, nn.Tanh())

    assert torch.equal(
        changed(hidden), changed.down_proj(changed.act_fn(changed.gate_proj(hidden)) * changed.up_proj(hidden))
    )


def test_a_lean_layer_keeps_less() -> None:
    def kept(layer: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(part: Tensor) -> Tensor:
            sizes[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
            return part

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
            hidden = drawn(64, 12).bfloat16().requires_grad_()
            found = layer(hidden)
        own = sum(p.untyped_storage().nbytes() for p in layer.parameters())
        assert found.requires_grad
        return sum(sizes.values()) - own

    for layer in (norm(LlamaRMSNorm), LlamaMLP(LLAMA)):
        assert kept(lean(layer.bfloat16())) < 0.7 * kept(layer.bfloat16())
