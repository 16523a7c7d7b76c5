from pathlib import Path
from typing import Any

import pytest
import torch

from rso_core.config import SftConfig
from rso_core.models import LanguageModel, add_lora, load
from rso_core.sft import Example, sft_loss, train_sft
from rso_core.training import Drawn
from rso_core.vocabulary import Family
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")


@pytest.fixture(params=FAMILIES)
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    return load(toy_model(tmp_path / "toy", request.param))


def examples(lm: LanguageModel) -> list[Example]:
    """Prompts and targets of different lengths."""
    prompts = [[20, 21], [22, 23, 24, 25, 26], [27], [28, 29, 30]]
    targets = [[31, 32, 33], [34], [35, 36, 37, 38], [39, 31]]
    return [(prompt, [*target, lm.eos_id]) for prompt, target in zip(prompts, targets, strict=True)]


def train_on(lm: LanguageModel, folder: Path, **changes: Any) -> dict[str, Any]:
    values = {"learning_rate": 0.02, "batch_size": 4, "micro_batch_size": 2, "epochs": 1} | changes
    training = SftConfig(**values).model_dump(mode="json")
    (folder / "run").mkdir(exist_ok=True)
    return train_sft(lm, examples(lm), training, seed=0, checkpoint_dir=folder / "run", attempt=1, emit=lambda _: None)


def token_log_prob(lm: LanguageModel, prompt: list[int], before: list[int], token: int) -> float:
    """Return the log-probability of one token after a prompt and a beginning, without batches or padding."""
    with torch.no_grad():
        if lm.family == "causal":
            logits = lm.model(input_ids=torch.tensor([prompt + before])).logits
        else:
            start = torch.tensor([[lm.model.config.decoder_start_token_id, *before]])
            logits = lm.model(input_ids=torch.tensor([prompt]), decoder_input_ids=start).logits
    return float(logits[0, -1].log_softmax(0)[token])


def test_the_loss_is_the_mean_cross_entropy_of_all_target_tokens_with_the_end(
    lm: LanguageModel, tmp_path: Path
) -> None:
    values = [
        -token_log_prob(lm, prompt, target[:position], token)
        for prompt, target in examples(lm)
        for position, token in enumerate(target)
    ]

    result = train_on(lm, tmp_path)

    assert result["first"]["loss"] == pytest.approx(sum(values) / len(values), abs=1e-5)


def test_the_prompt_is_no_part_of_the_loss(lm: LanguageModel) -> None:
    (prompt, target), *_ = examples(lm)
    loss = sft_loss(lm, [Drawn((prompt, target), 0)])
    alone = -sum(token_log_prob(lm, prompt, target[:i], token) for i, token in enumerate(target))

    assert float(loss.total.detach()) == pytest.approx(alone, abs=1e-4)
    assert loss.tokens == len(prompt) + len(target)


def test_neighbours_in_the_batch_change_nothing(lm: LanguageModel) -> None:
    together = float(sft_loss(lm, [Drawn(example, 0) for example in examples(lm)]).total.detach())
    alone = sum(float(sft_loss(lm, [Drawn(example, 0)]).total.detach()) for example in examples(lm))

    assert together == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
def test_targets_are_learned_by_heart(lm: LanguageModel, tmp_path: Path, method: str, optimizer: str) -> None:
    if method == "lora":
        lm = add_lora(lm, rank=8, alpha=16, seed=0)
    rate = {"full": 0.01, "lora": 0.05}[method] * (10 if (method, optimizer) == ("lora", "adafactor") else 1)

    result = train_on(lm, tmp_path, epochs=40, learning_rate=rate, optimizer=optimizer)

    assert result["steps"] == 40
    assert result["last"]["loss"] < result["first"]["loss"] - 1
