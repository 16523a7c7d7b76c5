"""An answer told while it is written is the answer that sampling gives."""

from pathlib import Path
from typing import Any

import pytest

from rso_core.artifacts import ArtifactStore
from rso_core.errors import UserError
from rso_core.generation import generate, generate_one
from rso_core.interactive import Asked, answer, spec_of
from rso_core.models import LanguageModel, load
from rso_core.protocol import Event, Partial
from rso_core.stages import ModelCache
from rso_core.stages_sampling import decode
from rso_core.templates import policy_prompt_ids
from rso_core.vocabulary import Family
from tests.rso_core.chain import import_model
from tests.rso_core.toys import toy_model

MESSAGES: Any = [{"role": "user", "content": "the cat sat on the mat"}]
SETTINGS: dict[str, Any] = {"temperature": 1.0, "top_k": 20, "max_tokens": 40, "seed": 7}


def asked(**values: Any) -> Asked:
    return Asked.model_validate(
        {"messages": MESSAGES, "task": "dialogue", "max_prompt_tokens": 64, **SETTINGS, **values}
    )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def expected(lm: LanguageModel, asked: Asked) -> tuple[list[int], str]:
    prompt = policy_prompt_ids(
        lm.tokenizer, lm.family, MESSAGES, task=asked.task, prompt_template="auto", max_tokens=asked.max_prompt_tokens
    )
    ((response,),) = generate(
        lm, [prompt.ids], num_responses=1, temperature=asked.temperature, top_k=asked.top_k,
        max_new_tokens=asked.max_tokens, seeds=[asked.seed], batch_size=1,
    )  # fmt: skip
    return response.token_ids, decode(lm.tokenizer, response.token_ids)


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
@pytest.mark.parametrize("top_k", [0, 1, 20])
def test_tokens_are_told_as_they_are_drawn_and_are_those_of_generate(
    tmp_path: Path, family: Family, top_k: int
) -> None:
    lm = load(toy_model(tmp_path / "model", family), dtype="float32")
    told: list[int] = []
    values: dict[str, Any] = {"temperature": 0.9, "top_k": top_k, "max_new_tokens": 30}
    one = generate_one(lm, [5, 6, 7], seed=3, on_token=told.append, **values)
    ((same,),) = generate(lm, [[5, 6, 7]], num_responses=1, seeds=[3], batch_size=4, **values)
    assert one == same
    assert told == one.token_ids


def test_an_answer_is_told_from_its_beginning_and_ends_as_sampled(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rso_core.interactive.TELL_SECONDS", 0.0)
    digest = import_model(store, "causal")
    events: list[Event] = []
    result = answer(spec_of(asked(), digest), store, events.append, ModelCache())
    tokens, text = expected(load(store.path(digest) / "model", dtype="float32"), asked())
    assert (result.digest, result.summary["text"], result.summary["tokens"]) == ("", text, len(tokens))
    partial = [event for event in events if isinstance(event, Partial)]
    assert [event.tokens for event in partial] == list(range(1, len(tokens) + 1))
    assert all(text.startswith(event.text.rstrip()) for event in partial)
    assert not list((store.root / "staging").iterdir())


def test_the_same_seed_gives_the_same_answer_and_another_one_another(store: ArtifactStore) -> None:
    digest, models = import_model(store, "causal"), ModelCache()

    def text(**values: Any) -> str:
        return str(answer(spec_of(asked(**values), digest), store, lambda _: None, models).summary["text"])

    assert text() == text()
    assert text() != text(seed=8)


def test_a_prompt_is_cut_to_what_the_model_reads_beside_its_answer(store: ArtifactStore) -> None:
    digest, models = import_model(store, "causal"), ModelCache()
    long: Any = [{"role": "user", "content": "cat " * 400}]
    wanted = asked(messages=long, max_prompt_tokens=2000)
    summary = answer(spec_of(wanted, digest), store, lambda _: None, models).summary
    assert (summary["prompt_tokens"], summary["prompt_truncated"]) == (256 - 40, True)
    with pytest.raises(UserError, match="leaves no room for the prompt"):
        answer(spec_of(asked(max_tokens=256), digest), store, lambda _: None, models)


def test_when_memory_runs_out_the_other_models_are_dropped_and_it_is_tried_again(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = import_model(store, "causal"), import_model(store, "causal", seed=1)
    models = ModelCache(3)
    answer(spec_of(asked(), first), store, lambda _: None, models)
    real, calls = ModelCache.load, list[int]()

    def full(self: ModelCache, *args: Any) -> LanguageModel:
        calls.append(len(self._models))
        if self._models:
            raise MemoryError
        return real(self, *args)

    monkeypatch.setattr(ModelCache, "load", full)
    assert answer(spec_of(asked(), second), store, lambda _: None, models).summary["text"]
    assert calls == [1, 0]
