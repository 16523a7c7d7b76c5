from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from rso_core.branch_sampling import Flight
from rso_core.generation import generate
from rso_core.models import LanguageModel, attention_of, load
from rso_core.token_sampling import Response, Sampling, sample_tokens
from tests.rso_core.toys import toy_model, toy_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPTS = [[18, 20, 22], [30], [19, 21, 23, 25, 27, 29, 31], [40, 33], [26, 35, 20, 19]]
SEEDS = [11, 12, 13, 14, 15]
DRAWS = Sampling(temperature=0.9, top_k=8, max_new_tokens=12)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(toy_model(tmp_path_factory.mktemp("toy"), "causal", seed=1))


def uniforms(prompt: int, responses: int, steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(SEEDS[prompt])
    return torch.rand(steps, responses, generator=generator, dtype=torch.float64).T


def one_at_a_time(lm: LanguageModel, prompt: int, numbers: Tensor, sampling: Sampling) -> Response:
    """The response that the numbers of one row draw, by a whole forward pass a token: no cache, no batch."""
    ids: list[int] = []
    with torch.no_grad():
        for number in numbers:
            logits = lm.model(torch.tensor([PROMPTS[prompt] + ids]), use_cache=False).logits[:, -1]
            ids.append(int(sample_tokens(logits, number[None], sampling)))
            if ids[-1] == lm.eos_id:
                return Response(ids, truncated=False)
    return Response(ids, truncated=True)


def expected(lm: LanguageModel, responses: int, sampling: Sampling = DRAWS) -> list[list[Response]]:
    return [
        [one_at_a_time(lm, i, numbers, sampling) for numbers in uniforms(i, responses, sampling.max_new_tokens)]
        for i in range(len(PROMPTS))
    ]


def flight(lm: LanguageModel, responses: int, rows: int, sampling: Sampling = DRAWS) -> Flight:
    return Flight(
        lm,
        PROMPTS,
        lambda i: uniforms(i, responses, sampling.max_new_tokens),
        sampling,
        num_responses=responses,
        rows=rows,
    )


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 64])
def test_responses_are_those_of_one_row_at_a_time_however_many_rows_are_in_flight(lm: LanguageModel, rows: int) -> None:
    wanted = expected(lm, responses=7)

    assert list(flight(lm, 7, rows).responses()) == wanted
    # Rows ended at different times, so that others took their places.
    assert len({len(response.token_ids) for group in wanted for response in group}) > 4


@pytest.mark.parametrize("top_k", [0, 1, 3])
def test_every_way_of_drawing_agrees_with_one_row_at_a_time(lm: LanguageModel, top_k: int) -> None:
    sampling = Sampling(temperature=1.5, top_k=top_k, max_new_tokens=6)

    assert list(flight(lm, 4, 6, sampling).responses()) == expected(lm, 4, sampling)


def test_a_limit_of_one_token_needs_no_row(lm: LanguageModel) -> None:
    sampling = Sampling(temperature=1.0, top_k=0, max_new_tokens=1)

    assert list(flight(lm, 5, 4, sampling).responses()) == expected(lm, 5, sampling)


def test_greedy_decoding_is_that_of_transformers_generate(lm: LanguageModel) -> None:
    found = generate(
        lm, PROMPTS, seeds=SEEDS, num_responses=4, temperature=1.0, top_k=1, max_new_tokens=12, batch_size=5
    )

    for prompt, group in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        output = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=lm.pad_id
        )
        assert [response.token_ids for response in group] == [output[0, len(prompt) :].tolist()] * 4


class Forwards:
    """Counts forward passes by their shape, [rows, tokens]."""

    def __init__(self, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, int]] = []
        forward: Callable[..., Any] = lm.model.forward

        def counted(**inputs: Any) -> Any:
            self.shapes.append(tuple(inputs["input_ids"].shape))
            return forward(**inputs)

        monkeypatch.setattr(lm.model, "forward", counted)


def test_each_prompt_is_read_once_and_the_batch_stays_full(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = Forwards(lm, monkeypatch)

    found = list(flight(lm, 16, 8).responses())

    read = [shape for shape in forwards.shapes if shape[0] == 1 and shape != (1, 1)]
    decoded = [rows for rows, tokens in forwards.shapes if tokens == 1]
    assert read == [(1, len(prompt)) for prompt in PROMPTS if len(prompt) > 1]
    assert max(decoded) == 8
    # The first token of a response comes from reading its prompt.
    tokens = sum(len(response.token_ids) - 1 for group in found for response in group)
    assert tokens <= sum(decoded) <= 1.3 * tokens


def test_memory_does_not_grow_with_the_number_of_responses(lm: LanguageModel) -> None:
    small, large = flight(lm, 32, 8), flight(lm, 96, 8)

    for sampled in (small, large):
        assert sum(len(group) for group in sampled.responses()) in (5 * 32, 5 * 96)

    for one, other in zip(small._cache.layers, large._cache.layers, strict=True):
        assert one.prompts == other.prompts == {}
        assert [buffer.shape for buffer in one._own] == [buffer.shape for buffer in other._own]


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
SHARED_HEADS: dict[str, Any] = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
KINDS: dict[str, tuple[PretrainedConfig, bool]] = {
    "grouped heads": (LlamaConfig(**SHARED_HEADS), True),
    "normalised queries": (Qwen3Config(**SHARED_HEADS), True),
    "parallel blocks": (GPTNeoXConfig(**SMALL), True),
    "learned positions": (GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=32, initializer_range=0.3), True),
    "long rope": (
        LlamaConfig(**SHARED_HEADS, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        True,
    ),
    "sliding window": (MistralConfig(**SHARED_HEADS, sliding_window=4), False),
    "soft caps and windows": (Gemma2Config(**SHARED_HEADS, sliding_window=4), False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind_draw_what_one_row_at_a_time_draws(kind: str) -> None:
    config, suits = KINDS[kind]
    tokenizer = toy_tokenizer()
    config.vocab_size, config.pad_token_id, config.eos_token_id = len(tokenizer), tokenizer.pad_token_id, None
    config.bos_token_id = None
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config)).eval()
    lm = LanguageModel(model, tokenizer, "causal")

    found = generate(
        lm, PROMPTS, seeds=SEEDS, num_responses=4, temperature=0.9, top_k=8, max_new_tokens=12, batch_size=6
    )

    assert flight(lm, 4, 6).suits() is suits
    assert found == expected(lm, 4)


def test_a_response_of_nothing_is_truncated(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path, "causal"))

    (found,) = generate(
        lm, [[18]], seeds=[0], num_responses=4, temperature=1.0, top_k=0, max_new_tokens=0, batch_size=4
    )

    assert found == [Response([], truncated=True)] * 4
