import math
from pathlib import Path

import pytest
import torch

from rso_core.generation import generate
from rso_core.kl_divergence import mean_kl, response_kl
from rso_core.models import LanguageModel, load
from rso_core.vocabulary import Family
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
PROMPTS = [[20, 21, 22], [23, 24, 25, 26, 27], [30]]


def models(folder: Path, family: Family) -> tuple[LanguageModel, LanguageModel]:
    return load(toy_model(folder / "a", family)), load(toy_model(folder / "b", family, seed=1))


def next_token(lm: LanguageModel, prompt: list[int], written: list[int]) -> torch.Tensor:
    """The distribution of the next token, by a plain forward of this one sequence."""
    with torch.no_grad():
        if lm.family == "causal":
            logits = lm.model(input_ids=torch.tensor([prompt + written])).logits[0, -1]
        else:
            start = lm.plain.config.decoder_start_token_id
            ids = torch.tensor([[start, *written]])
            logits = lm.model(input_ids=torch.tensor([prompt]), decoder_input_ids=ids).logits[0, -1]
    return logits.double().softmax(dim=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_divergence_is_the_sum_over_tokens_and_vocabulary(tmp_path: Path, family: Family) -> None:
    policy, reference = models(tmp_path, family)
    rows = [(prompt, [18 + i, 19, 20 + i, policy.eos_id][i:]) for i, prompt in enumerate(PROMPTS)]
    expected = []
    for prompt, response in rows:
        total = 0.0
        for t in range(len(response)):
            p, q = (next_token(lm, prompt, response[:t]) for lm in (policy, reference))
            total += sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
        expected.append(total)

    assert response_kl(policy, reference, rows, batch_size=2) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_has_no_divergence_from_itself_and_never_a_negative_one(tmp_path: Path, family: Family) -> None:
    policy, reference = models(tmp_path, family)
    rows = [(prompt, [18, 19, policy.eos_id]) for prompt in PROMPTS]
    assert response_kl(policy, policy, rows, batch_size=8) == [0.0, 0.0, 0.0]
    assert min(response_kl(policy, reference, rows, batch_size=1)) > 0


def test_the_mean_over_samples_is_the_expected_log_ratio(tmp_path: Path) -> None:
    """KL = E[log π_θ(y)/π_sft(y)] over whole responses, estimated by another route from the same samples."""
    from rso_core.grouped_forward import Group, response_log_probs

    policy, reference = models(tmp_path, "causal")
    samples = generate(
        policy, PROMPTS, num_responses=150, temperature=1.0, top_k=0, max_new_tokens=4, batch_size=450, seeds=[1, 2, 3]
    )
    rows = [(prompt, r.token_ids) for prompt, found in zip(PROMPTS, samples, strict=True) for r in found]
    exact = torch.tensor(response_kl(policy, reference, rows, batch_size=450))
    groups = [Group(prompt, [r.token_ids for r in found]) for prompt, found in zip(PROMPTS, samples, strict=True)]
    with torch.no_grad():
        ours, theirs = (torch.cat(response_log_probs(lm, groups, batch_size=450)) for lm in (policy, reference))
    ratios = ours - theirs

    error = math.sqrt(float(ratios.var() + exact.var()) / len(rows))
    assert abs(float(exact.mean() - ratios.mean())) < 4 * error
    assert exact.var() < ratios.var()  # why the sum over the vocabulary is taken


def test_the_interval_is_drawn_over_conversations() -> None:
    values, roots = [1.0, 1.0, 3.0, 3.0] * 5, [f"r{i // 2}" for i in range(20)]
    found = mean_kl(values, roots, draws=500, seed=1)
    assert (found.value, found.n) == (2.0, 20)
    alone = mean_kl(values, [f"r{i}" for i in range(20)], draws=500, seed=1)
    assert found.high - found.low > alone.high - alone.low > 0
    assert vars(mean_kl([0.0] * 4, ["a", "b", "c", "d"], draws=200, seed=1)) == {
        "value": 0,
        "low": 0,
        "high": 0,
        "n": 4,
    }


def test_models_with_other_vocabularies_are_refused(tmp_path: Path) -> None:
    policy = load(toy_model(tmp_path / "a", "causal"))
    other = load(toy_model(tmp_path / "b", "causal", words=("one", "two")))
    with pytest.raises(ValueError, match=r"one vocabulary, got logits \(1, 2, \d+\) and \(1, 2, \d+\)"):
        response_kl(policy, other, [([1, 2], [3, 4])], batch_size=1)
