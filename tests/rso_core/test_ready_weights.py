from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rso_core import ready_weights
from rso_core.generation import generate, generate_one
from rso_core.models import LanguageModel, add_lora, load
from rso_core.ready_weights import ReadyWeights
from tests.rso_core.toys import toy_model

IDS = [[18, 20, 22, 24], [19, 21, 23, 25], [30, 31, 32, 33]]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(toy_model(tmp_path_factory.mktemp("toy"), "causal", seed=1), dtype="bfloat16")


def logits(lm: LanguageModel) -> Tensor:
    with torch.inference_mode():
        found: Tensor = lm.model(torch.tensor(IDS)).logits.float()
    return found


def replaced(lm: LanguageModel) -> int:
    return sum("forward" in vars(layer) for layer in lm.plain.modules() if isinstance(layer, torch.nn.Linear))


def test_products_are_those_of_the_layers_up_to_rounding_and_only_while_asked(lm: LanguageModel) -> None:
    plain, weights = logits(lm), ReadyWeights(lm, rows=12)

    with weights.used():
        assert replaced(lm) == 15  # seven in each of two layers, and the output embedding
        torch.testing.assert_close(logits(lm), plain, rtol=0, atol=0.02 * float(plain.abs().max()))

    assert replaced(lm) == 0
    assert torch.equal(logits(lm), plain)


def test_layers_are_their_own_again_after_an_error(lm: LanguageModel) -> None:
    with pytest.raises(RuntimeError, match="stop"), ReadyWeights(lm, rows=1).used():
        raise RuntimeError("stop")  # noqa: EM101 - a test's

    assert replaced(lm) == 0


@pytest.mark.parametrize("reason", ["float32", "large"])
def test_nothing_is_reordered_where_it_would_not_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "large":
        monkeypatch.setattr(ready_weights, "MOST_BYTES", 100)
    model = load(toy_model(tmp_path, "causal"), dtype="float32" if reason == "float32" else "bfloat16")

    with ReadyWeights(model, rows=4).used():
        assert replaced(model) == 0


def test_adapters_stay_what_they_add(tmp_path: Path) -> None:
    model = add_lora(load(toy_model(tmp_path, "causal"), dtype="bfloat16"), rank=2, alpha=4, seed=0)
    for name, parameter in model.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    plain = logits(model)

    with ReadyWeights(model, rows=12).used():
        torch.testing.assert_close(logits(model), plain, rtol=0, atol=0.03 * float(plain.abs().max()))


def test_two_that_use_them_at_once_leave_the_layers_as_they_were(lm: LanguageModel) -> None:
    one, other = (ReadyWeights(lm, rows=1) for _ in range(2))
    first, second = one.used(), other.used()
    for opened in (first, second):
        opened.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)

    assert replaced(lm) == 0


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every product with a reordered weight."""
    found: list[int] = []
    product = ready_weights._product

    def counted(values: Tensor, **more: Any) -> Tensor:
        found.append(len(values))
        return product(values, **more)

    monkeypatch.setattr(ready_weights, "_product", counted)
    return found


@pytest.mark.parametrize(("prompts", "num_responses"), [(1, 6), (3, 1), (3, 2)])
def test_sampling_in_bfloat16_uses_them_and_leaves_the_model_as_it_was(
    lm: LanguageModel, products: list[int], prompts: int, num_responses: int
) -> None:
    settings = {"temperature": 0.9, "top_k": 8, "max_new_tokens": 5, "batch_size": 6}
    found = generate(lm, IDS[:prompts], num_responses=num_responses, seeds=[1, 2, 3][:prompts], **settings)

    assert [len(group) for group in found] == [num_responses] * prompts
    assert prompts * num_responses in products
    assert replaced(lm) == 0


def test_a_conversation_uses_them(lm: LanguageModel, products: list[int]) -> None:
    settings = {"temperature": 0.9, "top_k": 8, "max_new_tokens": 5}
    generate_one(lm, IDS[0], seed=1, on_token=lambda _token: None, **settings)

    assert set(products) == {1}
    assert replaced(lm) == 0


def test_nothing_to_sample_reorders_nothing(lm: LanguageModel, products: list[int]) -> None:
    assert generate(lm, [], num_responses=1, temperature=1.0, top_k=0, max_new_tokens=5, seeds=[], batch_size=6) == []
    assert products == []
