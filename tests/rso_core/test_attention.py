from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rso_core.attention import attention_forward
from rso_core.kv_cache import ROOM, roomy_cache

BATCH, HEADS, SHARED, TOKENS, WIDTH = 3, 6, 2, 9, 8
MODULE: Any = SimpleNamespace(num_key_value_groups=HEADS // SHARED, is_causal=True, training=False)
PADDED = torch.ones(BATCH, 1, 1, TOKENS, dtype=torch.bool)
PADDED[1, ..., :4] = False
MASKS = {
    "no mask": None,
    "left padding": PADDED,
    "additive": torch.where(PADDED, 0.0, torch.finfo(torch.float32).min),
}


def inputs(queries: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((BATCH, HEADS, queries, WIDTH), (BATCH, SHARED, TOKENS, WIDTH), (BATCH, SHARED, TOKENS, WIDTH))
    query, key, value = (torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)
    return query, key, value


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("biased", ["position bias", "no bias"])
@pytest.mark.parametrize("scaling", [None, 1.0])
def test_one_query_attends_exactly_as_with_transformers_sdpa(mask: str, biased: str, scaling: float | None) -> None:
    bias = torch.linspace(-2, 2, HEADS * TOKENS).reshape(1, HEADS, 1, TOKENS) if biased == "position bias" else None
    options: dict[str, Any] = {"scaling": scaling, "position_bias": bias}
    query, key, value = inputs(1)

    ours, _ = attention_forward(MODULE, query, key, value, MASKS[mask], **options)
    theirs, _ = sdpa_attention_forward(MODULE, query, key, value, MASKS[mask], **options)

    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for mine, other in zip(
        torch.autograd.grad(ours.sin().sum(), (query, key, value)),
        torch.autograd.grad(theirs.sin().sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_longer_queries_are_transformers_own() -> None:
    query, key, value = inputs(TOKENS)

    ours, _ = attention_forward(MODULE, query, key, value, None)

    assert torch.equal(ours, sdpa_attention_forward(MODULE, query, key, value, None)[0])


def test_the_cache_holds_what_transformers_cache_holds_while_rows_come_and_go() -> None:
    config = LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32)
    ours, theirs = roomy_cache(config), DynamicCache(config=config)
    generator = torch.Generator().manual_seed(0)
    rows = 2

    for step in range(ROOM + 10):
        if step in (1, 40):  # branch, then compact
            chosen = torch.tensor([0, 0, 1, 1, 1] if step == 1 else [4, 0])
            ours.batch_select_indices(chosen)
            theirs.batch_select_indices(chosen)
            rows = len(chosen)
        for layer in range(2):
            key, value = (torch.randn(rows, 2, 7 if step == 0 else 1, 8, generator=generator) for _ in range(2))
            found, expected = ours.update(key, value, layer), theirs.update(key, value, layer)
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])
        assert ours.get_seq_length() == theirs.get_seq_length() == 7 + step
