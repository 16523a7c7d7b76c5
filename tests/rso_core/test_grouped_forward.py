from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rso_core.errors import UserError
from rso_core.grouped_forward import Group, response_log_probs
from rso_core.models import LanguageModel, load
from rso_core.vocabulary import Family
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
GROUPS = [
    Group([18, 20, 22], [[23, 24, 43], [25, 43]]),
    Group([18], [[30]]),
    Group([18, 20, 22, 24, 26, 28, 30, 32], [[19, 43], [20, 21, 22, 23, 24, 25, 26, 43], [43]]),
]


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(toy_model(tmp_path_factory.mktemp("toy"), request.param))


def naive(lm: LanguageModel, prompt: list[int], response: list[int]) -> Tensor:
    """The definition: one unpadded sequence, all logits, a loop over the response's tokens."""
    if lm.family == "causal":
        logits = lm.model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 :]
    else:
        start = lm.model.config.decoder_start_token_id
        decoder = torch.tensor([[start, *response[:-1]]])
        logits = lm.model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder).logits[0]
    total = torch.zeros(())
    for position, token in enumerate(response):
        total = total + torch.log_softmax(logits[position], dim=-1)[token]
    return total


def gradients(lm: LanguageModel, values: list[Tensor]) -> dict[str, Any]:
    lm.model.zero_grad()
    torch.autograd.backward([value.sum() for value in values])
    return {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}


def test_log_probs_equal_the_definition_for_each_sequence(lm: LanguageModel) -> None:
    found = response_log_probs(lm, GROUPS, batch_size=64)

    for group, values in zip(GROUPS, found, strict=True):
        expected = torch.stack([naive(lm, group.prompt_ids, response) for response in group.responses])
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_log_probs_do_not_depend_on_the_batch_size(lm: LanguageModel, batch_size: int) -> None:
    together = torch.cat(response_log_probs(lm, GROUPS, batch_size=64))

    torch.testing.assert_close(
        torch.cat(response_log_probs(lm, GROUPS, batch_size=batch_size)), together, atol=1e-4, rtol=0
    )


def test_gradients_equal_those_of_the_definition(lm: LanguageModel) -> None:
    batched = gradients(lm, response_log_probs(lm, GROUPS, batch_size=4))
    one_by_one = gradients(lm, [naive(lm, g.prompt_ids, r) for g in GROUPS for r in g.responses])

    assert batched.keys() == one_by_one.keys()
    for name, gradient in one_by_one.items():
        torch.testing.assert_close(batched[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_no_gradient_is_kept_when_none_is_asked_for(lm: LanguageModel) -> None:
    with torch.no_grad():
        found = response_log_probs(lm, GROUPS, batch_size=8)

    assert not any(values.requires_grad for values in found)


def test_probabilities_of_all_continuations_add_up_to_one(lm: LanguageModel) -> None:
    every_token = [[token] for token in range(len(lm.tokenizer))]

    (values,) = response_log_probs(lm, [Group([18, 20], every_token)], batch_size=7)

    assert float(values.detach().exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("group", [Group([18], [[20], []]), Group([], [[20]])])
def test_an_empty_prompt_or_response_is_refused(lm: LanguageModel, group: Group) -> None:
    with pytest.raises(UserError, match="needs a prompt and a response of at least one token"):
        response_log_probs(lm, [group], batch_size=8)


def test_a_sequence_beyond_the_context_is_refused_with_what_to_lower(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path, "causal", context=8))

    with pytest.raises(UserError, match=r"context of 8; lower data\.max_prompt_tokens or data\.max_response_tokens"):
        response_log_probs(lm, [Group([18] * 5, [[20] * 4])], batch_size=8)


def test_no_groups_give_no_log_probs(lm: LanguageModel) -> None:
    assert response_log_probs(lm, [], batch_size=8) == []
