from pathlib import Path

import numpy as np
import pytest
import torch

from rso_core.models import LanguageModel, load
from rso_core.packed_forward import head
from rso_core.prefix_tree import Ids
from rso_core.reward_logits import label_logits, vocabulary_logits
from rso_core.templates import label_ids
from rso_core.trained_weights import Weights
from rso_core.vocabulary import Family
from tests.rso_core.comparisons import FAMILIES
from tests.rso_core.toys import toy_model


def ids(*sequences: list[int]) -> list[Ids]:
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_a_bfloat16_model_are_not_rounded_to_bfloat16(family: Family, tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", family), dtype="bfloat16")

    with torch.no_grad():
        logits = vocabulary_logits(lm, ids([3, 4, 5], [6, 7]))

    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).float().mean() > 0.5
    torch.testing.assert_close(logits, logits.bfloat16().float(), rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        again = head(lm)(torch.zeros(1, lm.plain.config.hidden_size, dtype=torch.bfloat16))
    assert again.dtype == torch.bfloat16  # only while answers are read
    assert "forward" not in vars(head(lm))


def test_a_bfloat16_model_computes_its_output_embedding_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own bfloat16 logits would be thrown away."""
    lm = load(toy_model(tmp_path / "toy", "seq2seq"), dtype="bfloat16")
    monkeypatch.setattr(type(head(lm)), "forward", forbid_output_embedding(lm))

    vocabulary_logits(lm, ids([3, 4, 5], [6, 7]))


def forbid_output_embedding(lm: LanguageModel) -> object:
    own, layer = type(head(lm)).forward, head(lm)

    def forward(self: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        assert self is not layer
        return own(self, hidden)

    return forward


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at_once", [7, 10_000])
def test_label_logits_are_those_of_the_whole_vocabulary(
    family: Family, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load(toy_model(tmp_path / "toy", family))
    monkeypatch.setattr("rso_core.reward_logits._VOCABULARY_AT_ONCE", at_once)
    sequences = ids([3, 4, 5, 9], [3, 4], [3, 4], [6, 7], [8])

    found, outside = label_logits(lm, sequences)

    with torch.no_grad():
        probabilities = vocabulary_logits(lm, sequences).softmax(dim=1)[:, list(label_ids(lm.tokenizer, lm.family))]
    torch.testing.assert_close(found, probabilities[:, 0].log() - probabilities[:, 1].log(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outside, 1 - probabilities.sum(dim=1), atol=1e-5, rtol=1e-4)


def test_logits_come_in_the_order_of_the_inputs_and_carry_the_gradients_of_each_alone(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    sequences = ids([3, 4, 5, 9], [6, 7, 8], [3, 4, 5, 9, 2], [3, 4, 5, 9])

    logits = vocabulary_logits(lm, sequences)
    expected = torch.stack([lm.model(torch.from_numpy(one).long()[None]).logits[0, -1] for one in sequences])

    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    for found, wished in zip(gradients(lm, logits), gradients(lm, expected), strict=True):
        torch.testing.assert_close(found, wished, atol=1e-4, rtol=1e-4)


def gradients(lm: LanguageModel, logits: torch.Tensor) -> list[torch.Tensor]:
    total = (logits.log_softmax(dim=1)[:, 0] * torch.arange(1.0, len(logits) + 1)).mean()
    return list(torch.autograd.grad(total, list(lm.model.parameters())))


def test_the_masters_of_a_bfloat16_model_get_the_gradient_of_its_output_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rso_core.reward_logits._VOCABULARY_AT_ONCE", 7)
    half, exact = (load(toy_model(tmp_path / "toy", "causal"), dtype=dtype) for dtype in ("bfloat16", "float32"))
    exact.model.load_state_dict({name: value.float() for name, value in half.model.state_dict().items()})
    sequences, weights = ids([3, 4, 5, 9], [6, 7, 8]), Weights(half.model)

    for _ in range(2):  # micro-batches of one step
        vocabulary_logits(half, sequences).log_softmax(dim=1)[:, 3].sum().backward()
        vocabulary_logits(exact, sequences).log_softmax(dim=1)[:, 3].sum().backward()

    weights.gradients()
    for name, master in weights.masters.items():
        expected = exact.model.get_parameter(name).grad
        assert master.grad is not None
        assert expected is not None
        assert (master.grad - expected).norm() < 0.1 * expected.norm(), name
