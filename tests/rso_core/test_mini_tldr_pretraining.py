import math
import random
from pathlib import Path

import pytest
import torch

from rso_core.demo import demo_config
from rso_core.mini_tldr import SLOT_OF, blind_rules, generate_dataset
from rso_core.mini_tldr_model import write_base_model
from rso_core.mini_tldr_pretraining import (
    corpus_loss,
    draw_comparison,
    draw_documents,
    draw_marked,
    exchange,
    pretrain,
    rate_at,
    token_losses,
    write_weights,
)
from rso_core.models import load
from rso_core.reward_accuracy import heldout_accuracy
from rso_core.reward_training import train_reward


def content(text: str) -> list[str]:
    return [word for word in text.replace(".", "").replace("!", "").split() if word in SLOT_OF]


def test_words_are_exchanged_for_others_of_their_kind_and_marked() -> None:
    rng = random.Random(0)  # noqa: S311
    text = "my boss sold my car at work."
    for count in (1, 2, 9):
        found = exchange(text, rng, count=count, mark="!")
        pairs = list(zip(content(text), content(found), strict=True))
        assert sum(a != b for a, b in pairs) == found.count("!") == min(count, 4)
        assert all(SLOT_OF[a] == SLOT_OF[b] for a, b in pairs)
    assert exchange(text, rng) == text


def test_the_true_summary_of_a_comparison_stands_where_the_label_says() -> None:
    rng = random.Random(1)  # noqa: S311
    labels = set()
    for _ in range(60):
        text, label = draw_comparison(rng)
        post, _, rest = text.partition("[SUMMARY A]")
        first, _, second = rest.partition("[SUMMARY B]")
        strange = [sum(word not in content(post) for word in content(summary)) for summary in (first, second)]
        assert (strange[0] == 0, strange[1] == 0) == (label == "A", label == "B") or not content(first)
        labels.add(label)
    assert labels == {"A", "B"}


def test_marks_follow_exactly_the_words_that_the_post_does_not_hold() -> None:
    rng = random.Random(2)  # noqa: S311
    for _ in range(60):
        post, _, summaries = draw_marked(rng).partition("[SUMMARY A]")
        for word in summaries.replace(".", "").split():
            if word.removesuffix("!") in SLOT_OF:
                assert word.endswith("!") == (word.removesuffix("!") not in content(post))


def test_the_loss_is_that_of_tokens_labels_and_marks(tmp_path: Path) -> None:
    lm = load(write_base_model(tmp_path / "base"))
    documents = ["my boss sold my car A", "my boss lost! it"]
    losses, targets = token_losses(lm.model, lm.tokenizer, documents)
    assert targets.tolist()[0] == lm.tokenizer(documents[0], add_special_tokens=False)["input_ids"][1:]
    assert losses[targets < 0].sum() == 0
    alone, _ = token_losses(lm.model, lm.tokenizer, documents[1:])
    assert torch.allclose(alone[0], losses[1, : alone.shape[1]], atol=1e-4)
    mean = losses[targets >= 0].mean()
    expected = mean + losses[0, 4] + 0.1 * losses[1, 2]
    assert lm.tokenizer.convert_ids_to_tokens([targets[0, 4], targets[1, 2]]) == ["A", "!"]
    assert corpus_loss(lm.model, lm.tokenizer, documents).item() == pytest.approx(expected.item(), abs=1e-4)


def test_the_rate_rises_then_stays_then_falls() -> None:
    rates = [rate_at(step, 1000) for step in (1, 50, 500, 750, 1000)]
    assert rates[0] < rates[1] == rates[2] > rates[3] > rates[4] > 0


def test_a_few_steps_learn_something_and_what_is_written_is_what_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, losses = pretrain(12)
    assert sum(losses[-3:]) < sum(losses[:3])
    write_weights(model, tmp_path / "weights.safetensors")
    monkeypatch.setattr("rso_core.mini_tldr_model.PRETRAINED", tmp_path / "weights.safetensors")
    loaded = load(write_base_model(tmp_path / "base", weights="pretrained"))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value.to(torch.bfloat16).float())


def test_the_weights_that_come_with_the_product_tell_true_from_false(tmp_path: Path) -> None:
    lm = load(write_base_model(tmp_path / "base", weights="pretrained"))
    rng = random.Random(3)  # noqa: S311
    documents = draw_documents(rng, 400)
    with torch.no_grad():
        losses, targets = token_losses(lm.model, lm.tokenizer, documents[:200])
    ends = (targets >= 0).sum(dim=1, keepdim=True) - 1
    right = (losses.gather(1, ends) < math.log(2)).float().mean().item()
    assert right > 0.85


@pytest.mark.slow
def test_the_reward_model_beats_the_rules_that_do_not_read_the_post(tmp_path: Path) -> None:
    """On a seed that nothing was chosen on: the interval lies above both rules, and above counting words by 5 points."""
    config = demo_config("rso", seed=77)
    rows = [
        row | {"root": str(number), "messages": []}
        for number, row in enumerate(generate_dataset("preference", size=6000, seed=77))
    ]
    heldout = [
        row | {"root": str(number), "messages": []}
        for number, row in enumerate(generate_dataset("preference", size=1500, seed=78))
    ]
    lm = load(write_base_model(tmp_path / "base", weights="pretrained"))
    settings = {"task": config.task, "max_length": config.reward.max_length}
    (tmp_path / "run").mkdir()
    train_reward(
        lm, rows, config.reward.model_dump(mode="json"), seed=77, checkpoint_dir=tmp_path / "run", attempt=1,
        emit=lambda _event: None, **settings,
    )  # fmt: skip
    found = heldout_accuracy(
        lm, heldout, order_average=True, batch_size=256, seed=0, on_progress=lambda *_: None, **settings
    )
    coverage = sum(blind_rules(row)["coverage"] for row in heldout) / len(heldout)
    assert found["accuracy"]["low"] > max(coverage, found["longer_wins"]["high"])
    assert found["accuracy"]["value"] > coverage + 0.05
