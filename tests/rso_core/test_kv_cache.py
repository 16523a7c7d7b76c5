from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import FalconConfig, Gemma3Config, MambaConfig, PretrainedConfig

from rso_core import memory
from rso_core.generation import generate
from rso_core.kv_cache import ROOM, SHARE, even_rows, kept_bytes, rows_that_fit, tokens_of_a_row
from rso_core.models import LanguageModel, load
from rso_core.vocabulary import Family
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(toy_model(tmp_path_factory.mktemp("toy"), request.param))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_token_keeps_is_counted_as_the_cache_keeps_it(tmp_path: Path, family: Family, dtype: str) -> None:
    lm = load(toy_model(tmp_path / "toy", family), dtype=dtype)
    ids = torch.tensor([[18, 20, 22]])
    given_ids = {"input_ids": ids} if family == "causal" else {"input_ids": ids[:, :1], "decoder_input_ids": ids}
    with torch.no_grad():
        cache = lm.plain(**given_ids, use_cache=True).past_key_values
    own = cache if family == "causal" else cache.self_attention_cache
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in own.layers)

    assert kept == 3 * kept_bytes(lm) > 0


@pytest.mark.parametrize(
    "config", [Gemma3Config(), FalconConfig(), MambaConfig()], ids=lambda config: config.model_type
)
def test_configurations_of_every_kind_are_understood(config: PretrainedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    lm: Any = SimpleNamespace(plain=SimpleNamespace(config=config), dtype=torch.bfloat16, device=torch.device("cpu"))
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1 << 50)

    assert rows_that_fit(lm, 100, most=5) == 5
    assert (kept_bytes(lm) == 0) is (config.model_type == "mamba")


def test_rows_are_the_first_half_that_half_of_the_free_memory_holds(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(free: int, tokens: int = 50, most: int = 1000) -> int:
        monkeypatch.setattr(memory, "free_bytes", lambda _device: free)
        return rows_that_fit(lm, tokens, most=most)

    a_row = next(free for free in range(1, 1_000_000) if rows(free, most=2) == 2) * SHARE / 2
    assert a_row > 50 * kept_bytes(lm)
    assert [rows(int(a_row * n / SHARE) + 1) for n in (1000, 999, 500, 499, 125, 1, 0)] == [
        1000,
        500,
        500,
        250,
        125,
        1,
        1,
    ]
    assert rows(int(a_row * 500 / SHARE) + 1, tokens=100) < 500


def test_a_prompt_that_is_kept_once_is_shared_by_its_rows() -> None:
    assert tokens_of_a_row(10, 300, 1) == ROOM + 300
    assert tokens_of_a_row(ROOM + 1, 300, 6) == 2 * ROOM + 50
    assert tokens_of_a_row(0, 0, 1) == 0


@pytest.mark.parametrize("num_responses", [1, 6])
def test_short_memory_decodes_fewer_at_once_and_the_same_responses(
    lm: LanguageModel, num_responses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, seeds = [[18, 20, 22], [30], [19, 21, 23, 25]], [1, 2, 3]
    settings = {"num_responses": num_responses, "temperature": 0.9, "top_k": 8, "max_new_tokens": 6}
    wanted = generate(lm, prompts, seeds=seeds, batch_size=64, **settings)
    widths: list[int] = []
    lm.model.register_forward_hook(lambda _model, _args, output: widths.append(len(output.logits)))
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 0)

    assert generate(lm, prompts, seeds=seeds, batch_size=64, **settings) == wanted
    assert set(widths) == {1}


@given(total=st.integers(1, 5000), at_once=st.integers(1, 600))
def test_rows_are_shared_evenly_among_as_few_passes_as_go(total: int, at_once: int) -> None:
    rows = even_rows(total, at_once)
    passes = -(-total // rows)

    assert 1 <= rows <= 9 * at_once / 8
    assert total - (passes - 1) * rows > 0
    assert passes * rows - total < passes  # no pass could have a row less
    assert passes == 1 or (passes - 1) * (9 * at_once // 8) < total  # nor a pass be saved


def test_candidates_and_baseline_are_decoded_in_equal_parts() -> None:
    assert [even_rows(65, at_once) for at_once in (64, 32, 650, 1)] == [65, 33, 65, 1]
    assert even_rows(4 * 65, 256) == 260
