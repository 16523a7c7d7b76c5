from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from rso_core.last_layer import _parts
from rso_core.models import LanguageModel, add_lora, load
from rso_core.packed_forward import ends, head, packed_hidden, packs
from rso_core.packed_layout import Layout, Segment
from tests.rso_core.toys import toy_model

FOREST = [Segment([18, 20, 22], [Segment([23, 24, 43]), Segment([25, 26])]), Segment([33, 34])]


@pytest.fixture
def lm(tmp_path: Path) -> LanguageModel:
    found = load(toy_model(tmp_path, "causal"))
    assert packs(found)
    return found


def everything(layout: Layout) -> Tensor:
    return torch.arange(layout.tokens)


def rows_through(lm: LanguageModel, wanted: Callable[[Layout], Tensor]) -> dict[str, int]:
    """Read the forest and return how many tokens went through each product."""
    rows: dict[str, int] = {}
    hooks = [
        part.register_forward_pre_hook(
            lambda _part, inputs, name=name: rows.update({name: inputs[0].shape[1]})  # type: ignore[misc]
        )
        for name, part in lm.plain.base_model.named_modules()
        if isinstance(part, torch.nn.Linear)
    ]
    packed_hidden(lm, FOREST, wanted)
    for hook in hooks:
        hook.remove()
    return rows


def test_the_last_layer_is_computed_for_the_wanted_tokens_and_every_other_layer_for_all(lm: LanguageModel) -> None:
    with torch.no_grad():
        rows = rows_through(lm, ends)

    alone = {"self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    assert {name for name, count in rows.items() if count == 3} == {f"layers.1.{name}" for name in alone}
    assert {count for name, count in rows.items() if count != 3} == {10}


def test_what_is_wanted_twice_is_computed_once_and_gets_the_whole_gradient(lm: LanguageModel) -> None:
    def gradient(wanted: Callable[[Layout], Tensor], *, twice: bool) -> dict[str, Tensor]:
        lm.model.zero_grad()
        hidden, _ = packed_hidden(lm, FOREST, wanted)
        (hidden.sin() if twice else hidden[:1].sin().repeat(2, 1)).sum().backward()
        return {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}

    found = gradient(lambda _: torch.tensor([5, 5]), twice=True)

    for name, expected in gradient(lambda _: torch.tensor([5]), twice=False).items():
        torch.testing.assert_close(found[name], expected)


def test_wanted_tokens_get_what_they_get_when_all_are_wanted(lm: LanguageModel) -> None:
    whole, layout = packed_hidden(lm, FOREST, everything)

    found, _ = packed_hidden(lm, FOREST, ends)

    torch.testing.assert_close(found, whole[ends(layout)], atol=1e-6, rtol=1e-5)


def test_adapters_around_a_marked_part_are_narrowed_and_what_is_inside_them_is_not_again(lm: LanguageModel) -> None:
    lm = add_lora(lm, rank=2, alpha=4, seed=0)
    for name, parameter in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)  # at 0 an adapter adds nothing
    whole, layout = packed_hidden(lm, FOREST, everything)

    found, _ = packed_hidden(lm, FOREST, ends)

    torch.testing.assert_close(found, whole[ends(layout)], atol=1e-6, rtol=1e-5)


def test_threads_that_share_a_model_want_different_tokens(lm: LanguageModel) -> None:
    forests = [[Segment([18 + n] * 5, [Segment([20] * (n + 1)), Segment([21])])] for n in range(8)]

    def logits(forest: list[Segment]) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(head(lm)(packed_hidden(lm, forest, ends)[0]))

    expected = [logits(forest) for forest in forests]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            for found, alone in zip(pool.map(logits, forests), expected, strict=True):
                torch.testing.assert_close(found, alone, atol=1e-6, rtol=1e-5)


def test_outside_of_a_packed_forward_the_layer_computes_everything(lm: LanguageModel) -> None:
    ids = torch.tensor([[18, 20, 22, 23]])
    before = lm.model(ids).logits

    packed_hidden(lm, FOREST, ends)

    torch.testing.assert_close(lm.model(ids).logits, before)


def test_with_checkpointing_everything_is_computed_as_the_second_pass_does(lm: LanguageModel) -> None:
    lm.plain.activation_checkpointing_enable()

    assert set(rows_through(lm, ends).values()) == {10}


def test_a_layer_of_another_kind_is_left_alone() -> None:
    config: dict[str, Any] = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 9}

    assert _parts(GPT2LMHeadModel(GPT2Config(**config))) == []
