import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rso_core.config import LossName
from rso_core.losses import LOSSES, NEEDS_REFERENCE, hinge_loss, hinge_norm_loss, sigmoid_norm_loss, slic_loss

CASES = json.loads((Path(__file__).parent / "cases" / "losses.json").read_text(encoding="utf-8"))
NAMES = get_args(LossName)

pairs = st.lists(st.tuples(st.floats(-200, 200), st.floats(-200, 200)), min_size=1, max_size=8)
gammas = st.floats(0.001, 2)


def of(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def columns(batch: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    return of([chosen for chosen, _ in batch]), of([rejected for _, rejected in batch])


def equation(name: str, chosen: float, rejected: float, gamma: float) -> float:
    """Eq. 8-10 for one pair, in plain numbers."""
    z = gamma * (chosen - rejected)
    if name == "sigmoid_norm":
        return math.log1p(math.exp(-z)) if z > 0 else math.log1p(math.exp(z)) - z
    return max(0.0, 1 - z)


def test_the_schema_names_exactly_these_losses() -> None:
    assert set(LOSSES) == set(NAMES)
    assert set(NAMES) > NEEDS_REFERENCE
    assert "hinge" not in NEEDS_REFERENCE


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['loss']} {case['chosen']} {case['rejected']}")
def test_known_answers(case: dict[str, Any]) -> None:
    found = LOSSES[case["loss"]](of([case["chosen"]]), of([case["rejected"]]), gamma=case["gamma"])
    torch.testing.assert_close(found, of([case["value"]]))


@pytest.mark.parametrize("name", NAMES)
@given(batch=pairs, gamma=gammas)
@settings(deadline=None)
def test_a_batch_is_the_equation_pair_by_pair(name: LossName, batch: list[tuple[float, float]], gamma: float) -> None:
    expected = of([equation(name, chosen, rejected, gamma) for chosen, rejected in batch])
    torch.testing.assert_close(LOSSES[name](*columns(batch), gamma=gamma), expected)


@pytest.mark.parametrize("name", NAMES)
@given(batch=pairs, gamma=gammas, data=st.data())
@settings(deadline=None)
def test_the_order_of_the_pairs_does_not_matter(
    name: LossName, batch: list[tuple[float, float]], gamma: float, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(batch))))
    found = LOSSES[name](*columns(batch), gamma=gamma)
    reordered = LOSSES[name](*columns([batch[i] for i in order]), gamma=gamma)
    assert torch.equal(found[list(order)], reordered)


@pytest.mark.parametrize("name", NAMES)
@given(batch=pairs, gamma=gammas, shift=st.floats(-100, 100))
@settings(deadline=None)
def test_a_constant_added_to_both_sides_changes_nothing(
    name: LossName, batch: list[tuple[float, float]], gamma: float, shift: float
) -> None:
    """Why β log Z(x) of eq. 5 cancels."""
    chosen, rejected = columns(batch)
    found = LOSSES[name](chosen + shift, rejected + shift, gamma=gamma)
    torch.testing.assert_close(found, LOSSES[name](chosen, rejected, gamma=gamma), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@given(batch=pairs, gamma=gammas)
@settings(deadline=None)
def test_slope_and_margin_enter_only_as_a_product(
    name: LossName, batch: list[tuple[float, float]], gamma: float
) -> None:
    chosen, rejected = columns(batch)
    torch.testing.assert_close(
        LOSSES[name](chosen, rejected, gamma=gamma), LOSSES[name](2 * chosen, 2 * rejected, gamma=gamma / 2)
    )


@pytest.mark.parametrize(("name", "value"), [("sigmoid_norm", math.log(2)), ("hinge", 1.0), ("hinge_norm", 1.0)])
def test_equal_sides_and_a_slope_of_zero_give_the_value_at_the_start(name: LossName, value: float) -> None:
    expected = of([value, value])
    torch.testing.assert_close(LOSSES[name](of([3.0, -7.0]), of([3.0, -7.0]), gamma=0.5), expected)
    torch.testing.assert_close(LOSSES[name](of([3.0, -7.0]), of([-90.0, 2.0]), gamma=0.0), expected)


def test_the_loss_of_a_sure_and_right_model_is_nothing_and_of_a_wrong_one_grows_by_the_slope() -> None:
    for loss in LOSSES.values():
        assert loss(of([1e4]), of([-1e4]), gamma=0.5).item() == 0
        wrong = loss(of([-1e4, -1e4 - 2]), of([1e4, 1e4]), gamma=0.5)
        torch.testing.assert_close(wrong[1] - wrong[0], torch.tensor(1.0, dtype=torch.float64))


def test_the_hinges_differ_only_in_what_they_are_given() -> None:
    policy = of([-30.0, -12.0]), of([-28.0, -15.0])
    reference = of([-31.0, -11.0]), of([-27.0, -15.5])
    ratios = policy[0] - reference[0], policy[1] - reference[1]
    assert torch.equal(hinge_norm_loss(*ratios, gamma=0.3), hinge_loss(*ratios, gamma=0.3))
    flat = hinge_norm_loss(policy[0] - 5, policy[1] - 5, gamma=0.3)
    torch.testing.assert_close(flat, hinge_loss(*policy, gamma=0.3))


def test_sigmoid_norm_is_the_negative_log_likelihood_of_bradley_and_terry() -> None:
    """Eq. 2: P(y_w ≻ y_l) = σ(γ·margin), so both orders of one pair have probabilities that sum to 1."""
    chosen, rejected = of([2.0, -1.0, 0.3]), of([0.5, 4.0, 0.3])
    one = torch.exp(-sigmoid_norm_loss(chosen, rejected, gamma=0.7))
    other = torch.exp(-sigmoid_norm_loss(rejected, chosen, gamma=0.7))
    torch.testing.assert_close(one + other, torch.ones_like(one))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: LossName) -> None:
    # Away from the hinge's corner at z = 1, where no derivative exists.
    chosen = of([1.3, -2.0, 40.0, 0.0]).requires_grad_()
    rejected = of([0.4, 3.0, -40.0, 0.1]).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, r: LOSSES[name](c, r, gamma=0.5), (chosen, rejected))


@pytest.mark.parametrize("name", NAMES)
@given(batch=pairs, gamma=gammas)
@settings(deadline=None)
def test_the_gradient_raises_the_chosen_and_lowers_the_rejected_as_much(
    name: LossName, batch: list[tuple[float, float]], gamma: float
) -> None:
    chosen, rejected = (side.requires_grad_() for side in columns(batch))
    LOSSES[name](chosen, rejected, gamma=gamma).sum().backward()  # type: ignore[no-untyped-call]
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert bool((chosen.grad <= 0).all())
    assert torch.equal(chosen.grad, -rejected.grad)
    assert bool((chosen.grad.abs() <= gamma).all())


def test_hinges_stop_learning_from_a_pair_beyond_the_margin_and_the_sigmoid_does_not() -> None:
    gradients = {}
    for name, loss in LOSSES.items():
        chosen = of([6.0]).requires_grad_()
        loss(chosen, of([0.0]), gamma=0.5).sum().backward()  # type: ignore[no-untyped-call]
        assert chosen.grad is not None
        gradients[name] = chosen.grad.item()
    assert gradients["hinge"] == gradients["hinge_norm"] == 0
    assert gradients["sigmoid_norm"] == pytest.approx(-0.5 / (1 + math.exp(3)))


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_would_broadcast_and_impossible_slopes_are_refused(name: LossName) -> None:
    with pytest.raises(ValueError, match=r"the same shape, got \(2,\) and \(2, 1\)"):
        LOSSES[name](torch.zeros(2), torch.zeros(2, 1), gamma=0.1)
    for gamma in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"`gamma` must be finite and 0 or above, got {gamma}"):
            LOSSES[name](torch.zeros(2), torch.zeros(2), gamma=gamma)


@given(batch=pairs, gamma=gammas)
@settings(deadline=None)
def test_slic_without_its_regulariser_is_the_hinge_divided_by_its_slope(
    batch: list[tuple[float, float]], gamma: float
) -> None:
    chosen, rejected = columns(batch)
    found = slic_loss(chosen, rejected, torch.zeros_like(chosen), delta=1 / gamma, regularizer=0)
    torch.testing.assert_close(gamma * found, hinge_loss(chosen, rejected, gamma=gamma), atol=1e-9, rtol=1e-9)


@given(batch=pairs, target=st.floats(-200, 0), delta=st.floats(0, 100), regularizer=st.floats(0, 500))
@settings(deadline=None)
def test_slic_is_equation_1_pair_by_pair(
    batch: list[tuple[float, float]], target: float, delta: float, regularizer: float
) -> None:
    targets = of([target + i for i in range(len(batch))])
    found = slic_loss(*columns(batch), targets, delta=delta, regularizer=regularizer)
    expected = [
        max(0.0, delta - chosen + rejected) - regularizer * (target + i) for i, (chosen, rejected) in enumerate(batch)
    ]
    torch.testing.assert_close(found, of(expected))


def test_the_gradient_of_slic_is_that_of_finite_differences_and_pulls_by_its_weight() -> None:
    sides = [of(values).requires_grad_() for values in ([1.3, -2.0], [0.4, 3.0], [-7.0, -1.0])]
    assert torch.autograd.gradcheck(lambda c, r, t: slic_loss(c, r, t, delta=2.0, regularizer=0.5), sides)
    slic_loss(*sides, delta=2.0, regularizer=0.5).sum().backward()  # type: ignore[no-untyped-call, misc]
    assert sides[2].grad is not None
    assert sides[2].grad.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("name", ["delta", "regularizer"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_an_impossible_margin_or_weight_and_a_target_of_another_shape_are_refused(name: str, value: float) -> None:
    settings = {"delta": 1.0, "regularizer": 1.0} | {name: value}
    with pytest.raises(ValueError, match=f"`{name}` must be finite and 0 or above, got {value}"):
        slic_loss(torch.zeros(2), torch.zeros(2), torch.zeros(2), **settings)
    with pytest.raises(ValueError, match=r"`target` must have the shape of `chosen`, got \(1,\) and \(2,\)"):
        slic_loss(torch.zeros(2), torch.zeros(2), torch.zeros(1), delta=1, regularizer=1)
