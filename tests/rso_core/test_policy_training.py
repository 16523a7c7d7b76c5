import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rso_core import batch_memory
from rso_core.artifacts import Row
from rso_core.config import FittingConfig
from rso_core.errors import UserError
from rso_core.grouped_forward import Group, response_log_probs
from rso_core.losses import NEEDS_REFERENCE
from rso_core.models import LanguageModel, add_lora, load
from rso_core.policy_training import fit_policy, pair_loss, snapshot_steps
from rso_core.protocol import Event, Metrics
from rso_core.vocabulary import Family
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
LOSSES = ("sigmoid_norm", "hinge", "hinge_norm")


def settings(**changes: Any) -> dict[str, Any]:
    values = {"learning_rate": 0.01, "batch_size": 4, "micro_batch_size": 4, "gamma": 0.1, "epochs": 2}
    return FittingConfig(**(values | changes)).model_dump(mode="json")


def log_prob(lm: LanguageModel, prompt: list[int], response: list[int]) -> torch.Tensor:
    return response_log_probs(lm, [Group(prompt, [response])], batch_size=1)[0][0]


def pairs_of(lm: LanguageModel) -> list[Row]:
    """Two prompts with three responses each, of which some are in several pairs."""
    found: list[Row] = []
    end = lm.eos_id
    for number, prompt in enumerate(([20, 21, 22], [23, 24, 25, 26, 27])):
        responses = [[18 + number, 19, end], [20, end], [21, 22, 23, 24, end]]
        for chosen, rejected in ((0, 1), (2, 1), (0, 2)):
            row: Row = {
                "prompt_id": f"prompt {number}", "prompt_token_ids": prompt,
                "chosen_token_ids": responses[chosen], "rejected_token_ids": responses[rejected],
            }  # fmt: skip
            with torch.no_grad():
                for side in ("chosen", "rejected"):
                    row[f"reference_{side}"] = log_prob(lm, prompt, row[f"{side}_token_ids"]).item()
            found.append(row)
    return found


def gradient(lm: LanguageModel) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None}
    lm.model.zero_grad()
    return found


def fit(
    lm: LanguageModel, pairs: list[Row], folder: Path, **changes: Any
) -> tuple[dict[str, Any], list[int], list[Event]]:
    snapshots: list[int] = []
    events: list[Event] = []
    (folder / "fit").mkdir(exist_ok=True)
    result = fit_policy(
        lm, pairs, settings(**changes), seed=0, checkpoint_dir=folder / "fit", attempt=1, emit=events.append,
        save_snapshot=snapshots.append,
    )  # fmt: skip
    return result, snapshots, events


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss", LOSSES)
def test_grouped_pairs_have_the_gradient_of_pairs_one_by_one(tmp_path: Path, family: Family, loss: str) -> None:
    lm = load(toy_model(tmp_path / "toy", family))
    pairs = pairs_of(load(toy_model(tmp_path / "other", family, seed=1)))  # another reference: log-ratios are not 0
    training = settings(loss=loss)

    together = pair_loss(lm, pairs, training)
    together.total.backward()  # type: ignore[no-untyped-call]
    grouped = gradient(lm)
    alone = [pair_loss(lm, [pair], training) for pair in pairs]
    sum(one.total for one in alone).backward()  # type: ignore[union-attr]

    assert float(together.total.detach()) == pytest.approx(sum(float(one.total.detach()) for one in alone), abs=1e-4)
    for name, value in gradient(lm).items():
        torch.testing.assert_close(grouped[name], value, rtol=1e-4, atol=1e-5, msg=name)
    for name in together.sums:
        assert together.sums[name] == pytest.approx(sum(one.sums[name] for one in alone), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_fit_is_the_same_however_its_batches_are_cut(
    tmp_path: Path, family: Family, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair at a time, a prompt at a time, all together, under a budget of tokens, with checkpointing."""
    folder = toy_model(tmp_path / "toy", family)
    reference = pairs_of(load(folder))
    monkeypatch.setitem(batch_memory.MOST_TOKENS, "cpu", 32)
    cuts: list[dict[str, Any]] = [{"micro_batch_size": size} for size in (6, 3, 1, 0)]
    cuts.append({"micro_batch_size": 0, "gradient_checkpointing": "on"})
    curves = []
    for number, cut in enumerate(cuts):
        lm = load(folder)
        lm = add_lora(lm, rank=4, alpha=8, seed=0) if method == "lora" else lm
        (tmp_path / str(number)).mkdir()
        _, _, events = fit(lm, reference, tmp_path / str(number), batch_size=6, epochs=3, optimizer="adamw", **cut)
        curves.append([event.values for event in events if isinstance(event, Metrics)])

    for curve in curves[1:]:
        for values, expected in zip(curve, curves[0], strict=True):
            # Accuracy jumps where a margin is 0 but for rounding.
            compared = {name: value for name, value in values.items() if name != "accuracy"}
            assert compared == pytest.approx({name: expected[name] for name in compared}, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_papers_equation(tmp_path: Path, family: Family) -> None:
    lm = load(toy_model(tmp_path / "toy", family))
    pairs = pairs_of(load(toy_model(tmp_path / "other", family, seed=1)))
    expected = dict.fromkeys(LOSSES, 0.0)
    for pair in pairs:
        with torch.no_grad():
            chosen, rejected = (
                log_prob(lm, pair["prompt_token_ids"], pair[f"{side}_token_ids"]).item()
                for side in ("chosen", "rejected")
            )
        z = 0.1 * (chosen - rejected)
        z_norm = 0.1 * (chosen - pair["reference_chosen"] - rejected + pair["reference_rejected"])
        expected["sigmoid_norm"] += math.log1p(math.exp(-z_norm))
        expected["hinge"] += max(0.0, 1 - z)
        expected["hinge_norm"] += max(0.0, 1 - z_norm)

    for loss, value in expected.items():
        assert float(pair_loss(lm, pairs, settings(loss=loss)).total.detach()) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_fitting_raises_chosen_above_rejected(tmp_path: Path, family: Family, loss: str, method: str) -> None:
    lm = load(toy_model(tmp_path / "toy", family))
    consistent = [pair for pair in pairs_of(lm) if pair["rejected_token_ids"] == [20, lm.eos_id]]
    lm = add_lora(lm, rank=4, alpha=8, seed=0) if method == "lora" else lm
    rate = {"full": 0.02, "lora": 0.5}[method]  # adapters start at 0, so parameter scaling keeps their steps small

    result, _, _ = fit(lm, consistent, tmp_path, loss=loss, epochs=20, learning_rate=rate)

    assert result["last"]["margin"] > result["first"]["margin"] + 0.05
    assert result["last"]["loss"] < result["first"]["loss"]


@pytest.mark.parametrize("loss", sorted(NEEDS_REFERENCE))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_loss_is_that_of_an_unchanged_policy(tmp_path: Path, family: Family, dtype: str, loss: str) -> None:
    lm = load(toy_model(tmp_path / "toy", family), dtype=dtype)

    result, _, _ = fit(lm, pairs_of(lm), tmp_path, loss=loss)

    tolerance = {"float32": 1e-4, "bfloat16": {"sigmoid_norm": 0.02, "hinge_norm": 0.05}[loss]}[dtype]
    assert result["first"]["loss"] == pytest.approx(
        {"sigmoid_norm": math.log(2), "hinge_norm": 1.0}[loss], abs=tolerance
    )
    assert abs(result["first"]["chosen_log_ratio"]) < 0.5


@pytest.mark.parametrize("loss", sorted(NEEDS_REFERENCE))
def test_references_of_another_model_are_refused_before_the_first_step(tmp_path: Path, loss: str) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    before = {name: value.detach().clone() for name, value in lm.model.named_parameters()}
    wrong = [{**pair, "reference_chosen": pair["reference_chosen"] - 1} for pair in pairs_of(lm)]

    with pytest.raises(UserError, match=rf"the loss {loss} must be .* got .* reference_log_probs"):
        fit(lm, wrong, tmp_path, loss=loss)
    assert all(torch.equal(value, before[name]) for name, value in lm.model.named_parameters())


def test_with_dropout_the_first_loss_is_not_checked(tmp_path: Path) -> None:
    folder = toy_model(tmp_path / "toy", "seq2seq")
    pairs = pairs_of(load(folder))

    result, _, _ = fit(load(folder, dropout=0.3), pairs, tmp_path, dropout=0.3)

    assert abs(result["first"]["loss"] - math.log(2)) > 1e-4


def test_hinge_asks_for_no_reference(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    bare = [{name: value for name, value in pair.items() if "reference" not in name} for pair in pairs_of(lm)]

    result, _, _ = fit(lm, bare, tmp_path, loss="hinge")
    assert "chosen_log_ratio" not in result["first"]
    with pytest.raises(ValueError, match="sigmoid_norm needs log π_sft"):
        pair_loss(lm, bare, settings(loss="sigmoid_norm"))


def test_what_is_watched_is_in_the_curve(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))

    _, _, events = fit(lm, pairs_of(lm), tmp_path)

    assert set(next(event for event in events if isinstance(event, Metrics)).values) == {
        "loss", "gradient_norm", "margin", "accuracy", "chosen_log_prob", "rejected_log_prob", "chosen_log_ratio",
        "rejected_log_ratio",
    }  # fmt: skip


def test_snapshots_are_taken_before_the_checkpoint_of_their_step(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    (tmp_path / "fit").mkdir()
    seen: list[tuple[int, int]] = []

    def snapshot(step: int) -> None:
        seen.append((step, len(list((tmp_path / "fit").glob("checkpoint-*.pt")))))

    fit_policy(
        lm, pairs_of(lm), settings(num_checkpoints=3, checkpoint_every=1), seed=0, checkpoint_dir=tmp_path / "fit",
        attempt=1, emit=lambda _: None, save_snapshot=snapshot,
    )  # fmt: skip
    assert seen == [(1, 0), (2, 1), (3, 2)]


@pytest.mark.parametrize(
    ("total", "count", "steps"), [(150, 2, {75, 150}), (10, 3, {3, 7, 10}), (2, 5, {1, 2}), (1, 1, {1})]
)
def test_snapshots_are_evenly_spaced_and_end_with_the_last_step(total: int, count: int, steps: set[int]) -> None:
    assert snapshot_steps(total, count) == steps
