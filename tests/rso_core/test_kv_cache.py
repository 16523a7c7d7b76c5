from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rso_core import memory
from rso_core.generation import generate
from rso_core.kv_cache import SHARE, even_rows, kept_bytes, rows_that_fit
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


def test_rows_are_as_many_as_half_of_the_free_memory_holds(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 10_000_000
    monkeypatch.setattr(memory, "free_bytes", lambda _device: free)
    fitting = rows_that_fit(lm, 50, most=1_000_000)

    assert fitting * 50 * kept_bytes(lm) < SHARE * free
    assert rows_that_fit(lm, 500, most=1_000_000) < fitting
    assert rows_that_fit(lm, 50, most=3) == 3
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 2 * free)
    assert rows_that_fit(lm, 50, most=1_000_000) in (2 * fitting, 2 * fitting + 1)
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 0)
    assert rows_that_fit(lm, 50, most=3) == 1


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
