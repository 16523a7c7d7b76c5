import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rso_core import generation
from rso_core.errors import UserError
from rso_core.generation import _blocks, generate
from rso_core.models import LanguageModel, load
from rso_core.vocabulary import Family
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
PROMPTS = [[18, 20, 22], [30], [19, 21, 23, 25, 27, 29, 31], [40, 33]]
SETTINGS: dict[str, Any] = {"num_responses": 6, "temperature": 0.9, "top_k": 8, "max_new_tokens": 10, "batch_size": 64}


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(toy_model(tmp_path_factory.mktemp("toy"), request.param, seed=1))


def next_logits(lm: LanguageModel, prompt: list[int], response: list[int]) -> Tensor:
    """The logits after prompt and response, without cache or padding."""
    with torch.no_grad():
        if lm.family == "causal":
            output = lm.model(torch.tensor([prompt + response]))
        else:
            decoder = torch.tensor([[lm.model.config.decoder_start_token_id, *response]])
            output = lm.model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder)
    logits: Tensor = output.logits[0, -1]
    return logits


def exact_distribution(logits: Tensor, *, temperature: float, top_k: int) -> dict[int, float]:
    values, tokens = logits.topk(top_k)
    return dict(zip(tokens.tolist(), torch.softmax(values / temperature, dim=0).tolist(), strict=True))


def assert_drawn_from(tokens: list[int], expected: dict[int, float]) -> None:
    """Pool the rare tokens, so that the chi-square statistic has its distribution."""
    counts = Counter(tokens)
    assert set(counts) <= set(expected)
    common = [token for token, p in expected.items() if p * len(tokens) >= 5]
    observed = [counts[token] for token in common]
    wanted = [expected[token] * len(tokens) for token in common]
    rest = len(tokens) - sum(wanted)
    if rest > 1e-3 * len(tokens):
        observed, wanted = [*observed, len(tokens) - sum(observed)], [*wanted, rest]
    assert len(observed) > 1
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    degrees = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    # The upper tail of the chi-square distribution is the regularised upper incomplete gamma function.
    assert torch.special.gammaincc(degrees, torch.tensor(statistic / 2, dtype=torch.float64)) > 1e-3


def test_first_and_later_tokens_follow_the_exact_distribution(lm: LanguageModel) -> None:
    prompt = [18, 20, 22, 24]
    settings: dict[str, Any] = {"temperature": 0.7, "top_k": 12}

    (responses,) = generate(lm, [prompt], num_responses=4000, max_new_tokens=2, seeds=[7], batch_size=1000, **settings)

    first = [response.token_ids[0] for response in responses]
    assert_drawn_from(first, exact_distribution(next_logits(lm, prompt, []), **settings))
    common = Counter(token for token in first if token != lm.eos_id).most_common(1)[0][0]
    second = [r.token_ids[1] for r in responses if r.token_ids[0] == common]
    assert len(second) > 500
    assert_drawn_from(second, exact_distribution(next_logits(lm, prompt, [common]), **settings))


def drawn_places(lm: LanguageModel, prompt: list[int], responses: list[list[int]], **settings: Any) -> Tensor:
    """Return (F(before token), F(token)) of every drawn token given all that precedes it: [responses, steps, 2]; NaN after the end.

    F is the cumulative distribution of the exact next-token distribution, over tokens from the likeliest on.
    """
    steps = max(map(len, responses))
    padded = torch.tensor([ids + [lm.eos_id] * (steps - len(ids)) for ids in responses])
    prompts = torch.tensor([prompt] * len(responses))
    with torch.no_grad():
        if lm.family == "causal":
            logits = lm.model(torch.cat([prompts, padded], dim=1)).logits[:, len(prompt) - 1 : -1]
        else:
            start = torch.full_like(padded[:, :1], lm.model.config.decoder_start_token_id)
            decoder = torch.cat([start, padded[:, :-1]], dim=1)
            logits = lm.model(input_ids=prompts, decoder_input_ids=decoder).logits
    values, tokens = logits.double().topk(settings["top_k"])
    chances = torch.softmax(values / settings["temperature"], dim=-1)
    chosen = tokens == padded[..., None]
    inside = torch.tensor([[step < len(ids) for step in range(steps)] for ids in responses])
    assert bool((chosen.sum(dim=-1) == 1)[inside].all())  # nothing outside of the top k was drawn
    upper = (chances.cumsum(dim=-1) * chosen).sum(dim=-1)
    places = torch.stack([upper - (chances * chosen).sum(dim=-1), upper], dim=-1)
    return places.masked_fill(~inside[..., None], torch.nan)


def test_tokens_at_every_position_follow_the_exact_distribution_given_what_precedes_them(lm: LanguageModel) -> None:
    """A token's place in its own exact distribution, at random between F before and F at it, is uniform at every position.

    Rows end at different times and others take their places: four prompts share a batch of 100.
    """
    settings: dict[str, Any] = {"temperature": 0.7, "top_k": 12}
    sampled = generate(
        lm, PROMPTS, num_responses=1000, max_new_tokens=6, seeds=[5, 6, 7, 8], batch_size=100, **settings
    )
    places = torch.cat(
        [
            drawn_places(lm, prompt, [response.token_ids for response in responses], **settings)
            for prompt, responses in zip(PROMPTS, sampled, strict=True)
        ]
    )
    noise = torch.rand(places.shape[:2], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniform = torch.lerp(places[..., 0], places[..., 1], noise)

    for step in range(6):
        here = uniform[:, step][~uniform[:, step].isnan()]
        assert len(here) > 500
        assert_drawn_from((here * 20).long().clamp(max=19).tolist(), dict.fromkeys(range(20), 1 / 20))


def test_top_k_zero_samples_among_all_tokens(lm: LanguageModel) -> None:
    (responses,) = generate(
        lm, [[18, 20]], num_responses=3000, temperature=3.0, top_k=0, max_new_tokens=1, seeds=[3], batch_size=3000
    )

    logits = next_logits(lm, [18, 20], [])
    expected = exact_distribution(logits, temperature=3.0, top_k=len(logits))
    assert_drawn_from([response.token_ids[0] for response in responses], expected)


def test_responses_depend_on_the_prompt_and_its_seed_not_on_batch_or_order(lm: LanguageModel) -> None:
    seeds = [11, 12, 13, 14]
    together = generate(lm, PROMPTS, seeds=seeds, **SETTINGS)

    alone = [generate(lm, [prompt], seeds=[seed], **SETTINGS)[0] for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    backwards = generate(lm, PROMPTS[::-1], seeds=seeds[::-1], **SETTINGS)[::-1]

    assert together == alone == backwards


@pytest.mark.parametrize("batch_size", [1, 4, 6, 13])
def test_responses_do_not_depend_on_the_batch_size(lm: LanguageModel, batch_size: int) -> None:
    seeds = [11, 12, 13, 14]

    found = generate(lm, PROMPTS, seeds=seeds, **{**SETTINGS, "batch_size": batch_size})

    assert found == generate(lm, PROMPTS, seeds=seeds, **SETTINGS)


@pytest.mark.parametrize(
    ("responses", "batch_size", "sizes"),
    [(65, 64, [65]), (72, 64, [72]), (73, 64, [37, 36]), (6, 64, [6]), (5, 2, [2, 2, 1]), (130, 64, [65, 65])],
)
def test_responses_of_a_prompt_are_decoded_in_equal_parts_and_a_small_rest_joins_them(
    responses: int, batch_size: int, sizes: list[int]
) -> None:
    found = [part for block, part in _blocks(1, responses, batch_size) if list(block) == [0]]

    assert [part.stop - part.start for part in found] == sizes
    assert [i for part in found for i in range(responses)[part]] == list(range(responses))


@pytest.mark.parametrize("num_responses", [1, 3])
def test_large_models_read_prompts_apart_and_draw_the_same(
    lm: LanguageModel, num_responses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS | {"num_responses": num_responses}
    seeds = list(range(len(PROMPTS)))
    wanted = generate(lm, PROMPTS, seeds=seeds, **settings)
    shapes: list[int] = []
    hook = lm.model.register_forward_pre_hook(
        lambda _model, _args, given: shapes.append(given["input_ids"].shape[1] if "input_ids" in given else 1),
        with_kwargs=True,
    )
    monkeypatch.setattr(generation, "_LARGE", 0)

    assert generate(lm, PROMPTS, seeds=seeds, **settings) == wanted
    hook.remove()
    if lm.family == "causal":
        assert {len(prompt) for prompt in PROMPTS} <= set(shapes)


def test_another_seed_gives_other_responses(lm: LanguageModel) -> None:
    assert generate(lm, PROMPTS[:1], seeds=[1], **SETTINGS) != generate(lm, PROMPTS[:1], seeds=[2], **SETTINGS)


def test_a_longer_limit_only_adds_tokens(lm: LanguageModel) -> None:
    short = generate(lm, PROMPTS, seeds=[1, 2, 3, 4], **{**SETTINGS, "max_new_tokens": 4})
    long = generate(lm, PROMPTS, seeds=[1, 2, 3, 4], **SETTINGS)

    assert [[r.token_ids for r in group] for group in short] == [[r.token_ids[:4] for r in group] for group in long]


def test_a_response_ends_with_eos_or_is_flagged_truncated_at_the_limit(lm: LanguageModel) -> None:
    groups = generate(
        lm, PROMPTS, seeds=[1, 2, 3, 4], **{**SETTINGS, "num_responses": 40, "top_k": 0, "temperature": 2.0}
    )

    responses = [response for group in groups for response in group]
    assert {response.truncated for response in responses} == {True, False}
    for response in responses:
        assert lm.eos_id not in response.token_ids[:-1]
        assert (response.token_ids[-1] == lm.eos_id) != response.truncated
        assert len(response.token_ids) == 10 if response.truncated else len(response.token_ids) <= 10


def test_greedy_decoding_takes_the_likeliest_token_each_time(lm: LanguageModel) -> None:
    found = generate(lm, PROMPTS, seeds=[0] * 4, **{**SETTINGS, "num_responses": 2, "top_k": 1})

    for prompt, (first, second) in zip(PROMPTS, found, strict=True):
        expected: list[int] = []
        while len(expected) < 10 and expected[-1:] != [lm.eos_id]:
            expected.append(int(next_logits(lm, prompt, expected).argmax()))
        assert first == second
        assert first.token_ids == expected


def test_a_generation_config_beside_the_weights_overrides_nothing(tmp_path: Path) -> None:
    plain, biased = (toy_model(tmp_path / name, "causal", seed=1) for name in ("plain", "biased"))
    settings = {"do_sample": True, "temperature": 0.01, "repetition_penalty": 9.0, "top_k": 2, "eos_token_id": 5}
    (biased / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")

    lm = load(biased)

    assert generate(lm, PROMPTS, seeds=[1, 2, 3, 4], **SETTINGS) == generate(
        load(plain), PROMPTS, seeds=[1, 2, 3, 4], **SETTINGS
    )
    assert lm.model.generation_config.temperature in (None, 1.0)
    assert lm.model.generation_config.repetition_penalty in (None, 1.0)


def test_a_prompt_that_does_not_fit_the_context_is_refused_before_sampling(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path, "causal", context=16))

    with pytest.raises(
        UserError, match="a prompt of 7 tokens with a response of up to 10 exceeds the model's context of 16"
    ):
        generate(lm, PROMPTS, seeds=[1, 2, 3, 4], **SETTINGS)


def test_an_empty_prompt_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(UserError, match="at least one token"):
        generate(lm, [[]], seeds=[1], **SETTINGS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("top_k", [0, 1, 8])
def test_a_model_that_computes_nan_is_refused_instead_of_sampled_from(
    tmp_path: Path, family: Family, top_k: int
) -> None:
    broken = load(toy_model(tmp_path / "toy", family))
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[5] = float("nan")

    with pytest.raises(UserError, match=r"logits are NaN.*model\.dtype float32"):
        generate(broken, PROMPTS, seeds=[1, 2, 3, 4], **{**SETTINGS, "top_k": top_k})
