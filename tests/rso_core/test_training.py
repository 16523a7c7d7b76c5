import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rso_core import batch_memory
from rso_core.checkpoints import load_checkpoint, save_checkpoint
from rso_core.config import TrainingConfig
from rso_core.errors import OutOfMemoryError, UserError
from rso_core.micro_batches import Sizes
from rso_core.models import LanguageModel, add_lora, load, set_threads_and_seed
from rso_core.protocol import Event, Log, Metrics, Progress
from rso_core.runner import failure_of
from rso_core.sft import sft_loss
from rso_core.training import BatchLoss, Drawn, Objective, train
from rso_core.vocabulary import Family
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
EXAMPLES = [([5 + i % 7, 6, 7 + i % 3][: 1 + i % 3], [8 + i % 5, 9, 1][i % 2 :]) for i in range(12)]


class Killed(Exception):  # noqa: N818 - what happens to the process, not an error of it
    pass


def settings(**changes: Any) -> dict[str, Any]:
    values = {
        "learning_rate": 0.01,
        "batch_size": 4,
        "micro_batch_size": 2,
        "checkpoint_every": 2,
        "max_steps": 6,
        "epochs": 2.0,
    }
    return TrainingConfig(**(values | changes)).model_dump(mode="json")


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in first if not torch.equal(first[name], second[name])]


def objective(**changes: Any) -> Objective[Any]:
    parts: dict[str, Any] = {
        "section": "sft", "items": EXAMPLES, "loss": sft_loss, "weight": lambda e: len(e[1]),
        "sizes": Sizes([len(prompt) + len(target) for prompt, target in EXAMPLES]),
    }  # fmt: skip
    return Objective(**(parts | changes))


def run(
    lm: LanguageModel, folder: Path, *, emit: Callable[[Event], None] = lambda _: None, **changes: Any
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    options = {name: changes.pop(name) for name in ("loss", "after_step", "items") if name in changes}
    return train(lm, objective(**options), settings(**changes), seed=5, checkpoint_dir=folder, attempt=1, emit=emit)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    ("optimizer", "killed_after"), [("adafactor", 1), ("adafactor", 3), ("adafactor", 6), ("adamw", 3)]
)
def test_a_killed_training_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, family: Family, dtype: str, method: str, optimizer: str, killed_after: int
) -> None:
    folder = toy_model(tmp_path / "toy", family)

    def fresh() -> LanguageModel:
        set_threads_and_seed(0)
        lm = load(folder, dtype=dtype, dropout=0.1)  # dropout makes the random state matter
        return add_lora(lm, rank=2, alpha=4, seed=1) if method == "lora" else lm

    def die(step: int) -> None:
        if step == killed_after:
            raise Killed

    options: dict[str, Any] = {"optimizer": optimizer, "dropout": 0.1}
    whole = fresh()
    expected = run(whole, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        run(fresh(), tmp_path / "killed", after_step=die, **options)
    resumed = fresh()
    torch.manual_seed(99)  # whatever happened in between
    found = run(resumed, tmp_path / "killed", **options)

    assert found == expected
    assert differing(weights(whole), weights(resumed)) == []


def test_resuming_says_where_it_goes_on(tmp_path: Path) -> None:
    folder = toy_model(tmp_path / "toy", "causal")
    run(load(folder), tmp_path / "run", max_steps=4)
    events: list[Event] = []

    run(load(folder), tmp_path / "run", max_steps=6, emit=events.append)

    assert [event.message for event in events if isinstance(event, Log)] == ["resumed after step 4 of 6"]
    assert [(event.done, event.resumed) for event in events if isinstance(event, Progress)] == [(4, 4), (5, 4), (6, 4)]


def test_a_finished_training_does_nothing_more_and_says_the_same(tmp_path: Path) -> None:
    folder = toy_model(tmp_path / "toy", "causal")
    first, second = load(folder), load(folder)
    expected = run(first, tmp_path / "run")

    assert run(second, tmp_path / "run") == expected
    assert differing(weights(first), weights(second)) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_the_batch_whatever_the_micro_batches(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toy_model(tmp_path / "toy", family)
    trained = []
    cuts: list[dict[str, Any]] = [{"micro_batch_size": size} for size in (4, 3, 2, 1)]
    cuts += [{"micro_batch_size": 0}, {"micro_batch_size": 0, "gradient_checkpointing": "on"}]
    monkeypatch.setitem(batch_memory.MOST_TOKENS, "cpu", 12)
    for number, cut in enumerate(cuts):
        lm = load(folder)
        run(lm, tmp_path / f"run-{number}", **cut, max_steps=2, optimizer="adamw", learning_rate=1e-4)
        trained.append(weights(lm))

    for other in trained[1:]:
        for name, value in trained[0].items():
            torch.testing.assert_close(value, other[name], rtol=0, atol=2e-6, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_gradients_are_those_without(tmp_path: Path, family: Family) -> None:
    """Each layer is computed twice, and dropout draws the same noise both times."""
    folder = toy_model(tmp_path / "toy", family)
    states = []
    for wanted in ("off", "on"):
        lm = load(folder, dropout=0.2)
        run(lm, tmp_path / wanted, gradient_checkpointing=wanted, max_steps=1, dropout=0.2, micro_batch_size=4)
        assert not lm.plain.is_activation_checkpointing
        states.append(weights(lm))

    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=1e-6, msg=name)


def scarce(items: int) -> Callable[[LanguageModel, Any], BatchLoss]:
    """Return a loss that runs out of memory with more items than that, after it has drawn random numbers."""

    def loss(lm: LanguageModel, batch: Any) -> BatchLoss:
        torch.rand(3)
        if len(batch) > items:
            raise MemoryError
        return sft_loss(lm, batch)

    return loss


def test_a_step_that_ran_out_of_memory_is_done_again_in_smaller_pieces(tmp_path: Path) -> None:
    folder = toy_model(tmp_path / "toy", "causal")
    whole, halved, killed = (load(folder, dropout=0.1) for _ in range(3))
    options: dict[str, Any] = {"dropout": 0.1}
    expected = run(whole, tmp_path / "whole", loss=scarce(2), micro_batch_size=2, **options)
    found = run(halved, tmp_path / "halved", loss=scarce(2), micro_batch_size=4, **options)

    assert found == expected
    assert differing(weights(whole), weights(halved)) == []

    def die(step: int) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        run(killed, tmp_path / "killed", loss=scarce(2), micro_batch_size=4, after_step=die, **options)
    resumed = load(folder, dropout=0.1)  # on a machine with more memory
    assert run(resumed, tmp_path / "killed", loss=scarce(4), micro_batch_size=4, **options) == expected
    assert differing(weights(whole), weights(resumed)) == []


def test_one_item_that_does_not_fit_is_out_of_memory_with_advice(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    before = weights(lm)

    with pytest.raises(OutOfMemoryError, match="memory ran out with one item") as caught:
        run(lm, tmp_path / "run", loss=scarce(0), micro_batch_size=4)
    assert failure_of(caught.value, tmp_path).reason == "out_of_memory"
    assert differing(before, weights(lm)) == []


def test_trying_the_longest_first_changes_nothing_of_the_training(tmp_path: Path) -> None:
    folder = toy_model(tmp_path / "toy", "causal")
    tried, known = load(folder, dropout=0.1), load(folder, dropout=0.1)
    options: dict[str, Any] = {"micro_batch_size": 0, "dropout": 0.1}
    expected = run(tried, tmp_path / "tried", **options)
    (tmp_path / "known").mkdir()
    shutil.copy(tmp_path / "tried" / "micro_batches.json", tmp_path / "known")

    assert run(known, tmp_path / "known", **options) == expected
    assert differing(weights(tried), weights(known)) == []


def test_adafactor_scales_its_steps_with_the_parameters(tmp_path: Path) -> None:
    """The first step of T5X's Adafactor: rate × max(1e-3, RMS(θ)) × g / √(rows × columns / mean), clipped at RMS 1."""
    lm = load(toy_model(tmp_path / "toy", "causal"))
    before = weights(lm)
    run(lm, tmp_path / "run", max_steps=1, learning_rate=0.01)

    for name, old in before.items():
        update = lm.model.get_parameter(name).detach() - old
        scale = max(1e-3, old.pow(2).mean().sqrt().item())
        rms = update.pow(2).mean().sqrt().item() / (0.01 * scale)
        assert rms <= 1.001, name  # clipped
        assert rms > 0.5, name


def test_a_small_rate_moves_bfloat16_weights(tmp_path: Path) -> None:
    """Updates of 1e-5 of a weight's scale are below bfloat16's resolution; the float32 masters add them up."""
    folder = toy_model(tmp_path / "toy", "causal")
    changes: dict[str, Any] = {"learning_rate": 1e-5, "max_steps": 60, "epochs": 20.0, "checkpoint_every": 60}
    half, single = load(folder, dtype="bfloat16"), load(folder, dtype="float32")
    before = weights(half)
    run(half, tmp_path / "half", **changes)
    run(single, tmp_path / "single", **changes)
    masters = load_checkpoint(tmp_path / "half")
    assert masters is not None

    moved = sum(int((value != before[name]).sum()) for name, value in weights(half).items())
    assert 0 < moved / sum(value.numel() for value in before.values()) < 0.5
    start = weights(load(folder, dtype="float32"))
    for name, value in weights(single).items():
        wanted, got = value - start[name], masters["weights"][name] - before[name].float()
        assert got.norm() > 0.5 * wanted.norm(), name


def test_without_masters_the_same_rate_is_rounded_away(tmp_path: Path) -> None:
    """Why there are masters: the same optimizer on the bfloat16 weights themselves changes nothing."""
    from transformers.optimization import Adafactor

    lm = load(toy_model(tmp_path / "toy", "causal"), dtype="bfloat16")
    before = weights(lm)
    optimizer = Adafactor(lm.model.parameters(), lr=1e-5, scale_parameter=True, relative_step=False)
    for _ in range(20):
        sft_loss(lm, [Drawn(example, 0) for example in EXAMPLES]).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    moved = sum(int((value != before[name]).sum()) for name, value in weights(lm).items())
    assert moved / sum(value.numel() for value in before.values()) < 0.01


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_before_the_step(tmp_path: Path, bad: float) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    after_first: list[dict[str, torch.Tensor]] = []

    def loss(lm: LanguageModel, batch: Any) -> BatchLoss:
        found = sft_loss(lm, batch)
        return BatchLoss(found.total * (bad if after_first else 1.0), tokens=found.tokens)

    with pytest.raises(UserError, match=r"the loss of step 2 is (nan|inf); it must be finite.*sft.learning_rate"):
        run(lm, tmp_path / "run", loss=loss, after_step=lambda _: after_first.append(weights(lm)))
    assert differing(after_first[0], weights(lm)) == []


def test_a_gradient_that_is_not_finite_is_refused_before_the_step(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    before = weights(lm)

    def loss(lm: LanguageModel, batch: Any) -> BatchLoss:
        found = sft_loss(lm, batch)
        return BatchLoss(found.total + (found.total * 0).sqrt())  # 0, with an infinite slope

    with pytest.raises(UserError, match="the gradient norm of step 1 is nan"):
        run(lm, tmp_path / "run", loss=loss)
    assert differing(before, weights(lm)) == []


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    folder = toy_model(tmp_path / "toy", "causal")
    plain, clipped = load(folder), load(folder)
    options: dict[str, Any] = {"optimizer": "adamw", "max_steps": 1}
    # AdamW's first step does not depend on the size of the gradient, so its second moment is looked at.
    run(plain, tmp_path / "plain", **options)
    run(clipped, tmp_path / "clipped", max_gradient_norm=0.01, **options)
    norms = []
    for name in ("plain", "clipped"):
        state = load_checkpoint(tmp_path / name)
        assert state is not None
        moments = [item["exp_avg"] / 0.1 for item in state["optimizer"]["state"].values()]
        norms.append(float(torch.stack([m.norm() for m in moments]).norm()))

    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_curves_have_a_point_for_each_step_of_a_short_training(tmp_path: Path) -> None:
    events: list[Event] = []
    run(load(toy_model(tmp_path / "toy", "causal")), tmp_path / "run", emit=events.append)

    points = [event for event in events if isinstance(event, Metrics)]
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
    assert set(points[0].values) == {"loss", "gradient_norm"}


def test_the_last_batch_of_a_fraction_of_an_epoch_is_short(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"))
    seen: list[int] = []

    def loss(lm: LanguageModel, batch: Any) -> BatchLoss:
        seen.append(len(batch))
        return sft_loss(lm, batch)

    run(lm, tmp_path / "run", loss=loss, epochs=0.5, micro_batch_size=4, max_steps=0)
    assert seen == [4, 2]


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1}, attempt=1)
    save_checkpoint(tmp_path, 2, {"step": 2}, attempt=1)
    newest = next(tmp_path.glob("checkpoint-00000002-*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)

    assert load_checkpoint(tmp_path) == {"step": 1}


def test_two_checkpoints_are_kept_and_what_killed_attempts_left_is_cleared(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step}, attempt=1)
    (tmp_path / "checkpoint-00000004.a1.partial").write_bytes(b"half")

    assert load_checkpoint(tmp_path) == {"step": 3}
    assert sorted(path.name[:19] for path in tmp_path.glob("checkpoint*")) == [
        "checkpoint-00000002",
        "checkpoint-00000003",
    ]


def test_a_checkpoint_that_does_not_fit_the_disk_is_an_error_of_the_disk(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(1 << 50)  # a petabyte that takes four bytes

    with pytest.raises(OSError, match="a checkpoint needs") as caught:
        save_checkpoint(tmp_path, 1, {"weights": huge}, attempt=1)
    assert caught.value.errno is not None
    assert list(tmp_path.glob("checkpoint*")) == []
