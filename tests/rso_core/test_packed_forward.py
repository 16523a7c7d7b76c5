from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rso_core.models import LanguageModel, add_lora, load
from rso_core.packed_forward import ends, head, packed_hidden, packs
from rso_core.packed_layout import LONG, Segment, pack, padded_together
from tests.rso_core.toys import toy_model

FOREST = [
    Segment([18, 20, 22], [Segment([23, 24, 43]), Segment([25], [Segment([26, 27]), Segment([28])])]),
    Segment([18, 30, 19], [Segment([20])]),
    Segment([33, 34]),
]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(toy_model(tmp_path_factory.mktemp("toy"), "causal"))


def paths(segment: Segment, before: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """The definition: every way from the beginning to an end, depth first."""
    path = (*before, *segment.ids)
    return [p for child in segment.after for p in paths(child, path)] or [path]


def last_logits(lm: LanguageModel, forest: list[Segment]) -> Tensor:
    return head(lm)(packed_hidden(lm, forest, ends)[0])


def one_by_one(lm: LanguageModel, forest: list[Segment]) -> Tensor:
    found = [path for tree in forest for path in paths(tree)]
    return torch.stack([lm.model(torch.tensor([path])).logits[0, -1] for path in found])


def gradients(lm: LanguageModel, logits: Tensor) -> dict[str, Tensor]:
    lm.model.zero_grad()
    (logits.sin() * torch.linspace(-1, 1, logits.shape[-1])).sum().backward()
    return {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}


segments = st.recursive(
    st.builds(Segment, st.lists(st.integers(0, 40), min_size=1, max_size=40)),
    lambda below: st.builds(
        Segment, st.lists(st.integers(0, 40), min_size=1, max_size=20), st.lists(below, min_size=1, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(segments, min_size=1, max_size=3))
def test_a_packed_forest_gives_the_logits_of_its_paths_read_one_by_one(
    lm: LanguageModel, forest: list[Segment]
) -> None:
    with torch.no_grad():
        torch.testing.assert_close(last_logits(lm, forest), one_by_one(lm, forest), atol=1e-4, rtol=1e-4)


@settings(max_examples=8, deadline=None)
@given(st.lists(segments, min_size=1, max_size=3))
def test_a_packed_forest_gives_the_gradients_of_its_paths(lm: LanguageModel, forest: list[Segment]) -> None:
    packed, expected = gradients(lm, last_logits(lm, forest)), gradients(lm, one_by_one(lm, forest))

    for name, gradient in expected.items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-4 * float(gradient.abs().max()) + 1e-6, rtol=1e-3)


def test_a_long_segment_is_attended_to_as_a_short_one(lm: LanguageModel) -> None:
    forest = [Segment([18, 20] * 70, [Segment([21] * 50), Segment([22] * 3)]), Segment([24] * 200, [Segment([25])])]

    with torch.no_grad():
        torch.testing.assert_close(last_logits(lm, forest), one_by_one(lm, forest), atol=1e-4, rtol=1e-4)


def test_segments_are_padded_together_by_a_quarter_at_most() -> None:
    for length in range(1, LONG):
        assert length <= padded_together(length) <= max(16, 1.25 * length)

    lengths = [130, 131, 159, 161, 3, 16, 40]
    _, layout = pack([Segment([7] * length) for length in lengths], torch.device("cpu"))

    assert sorted(rows.tokens.shape for rows in layout.together) == [(2, 16), (3, 159)]
    assert [span.stop - span.start for span in layout.alone] == [161, 40]  # nothing to be padded with


def test_adapters_are_part_of_the_packed_forward(tmp_path: Path) -> None:
    lm = add_lora(load(toy_model(tmp_path, "causal")), rank=2, alpha=4, seed=0)
    for name, parameter in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)

    packed, expected = gradients(lm, last_logits(lm, FOREST)), gradients(lm, one_by_one(lm, FOREST))

    assert packs(lm)
    assert packed.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-4, rtol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path, "causal"))
    expected = gradients(lm, last_logits(lm, FOREST))
    lm.plain.activation_checkpointing_enable()
    lm.plain.train()

    again = gradients(lm, last_logits(lm, FOREST))

    for name, gradient in expected.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5)


def test_the_layout_says_which_token_predicts_which() -> None:
    ids, layout = pack(FOREST, torch.device("cpu"))
    responses = [1, 2, 3, 6]

    assert ids[layout.own_tokens(responses)].tolist() == [23, 24, 43, 25, 26, 27, 20]
    assert ids[layout.predicting_tokens(responses)].tolist() == [22, 23, 24, 22, 25, 26, 19]
    assert layout.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 4, 0, 1, 2, 3, 0, 1]
    assert ids[layout.last_tokens(layout.leaves)].tolist() == [43, 27, 28, 20, 34]


def test_each_token_sees_its_own_path_and_nothing_else() -> None:
    _, layout = pack(FOREST, torch.device("cpu"))

    assert layout.mask[9].nonzero().flatten().tolist() == [0, 1, 2, 6, 9]


def test_what_begins_a_tree_has_nothing_that_predicts_it() -> None:
    _, layout = pack(FOREST, torch.device("cpu"))

    with pytest.raises(ValueError, match="none before it"):
        layout.predicting_tokens([0])


def test_dropout_in_training_is_not_shared(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path, "causal"), dropout=0.1)

    assert packs(lm)
    lm.model.train()
    assert not packs(lm)
