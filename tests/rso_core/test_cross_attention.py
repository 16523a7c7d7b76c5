import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, MT5Config, PretrainedConfig, T5Config, UMT5Config

from rso_core.attention import ATTENTION
from rso_core.cross_attention import CrossLayer
from rso_core.generation import generate
from rso_core.models import LanguageModel
from tests.rso_core.toys import toy_tokenizer

PROMPTS = [[18, 20, 22], [30], [19, 21, 23, 25, 27, 29, 31], [40, 33]]
KINDS: dict[str, type[PretrainedConfig]] = {"t5": T5Config, "mt5": MT5Config, "umt5": UMT5Config}


def model_of(kind: str) -> LanguageModel:
    tokenizer = toy_tokenizer()
    config = KINDS[kind](
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation=ATTENTION).eval()
    return LanguageModel(model, tokenizer, "seq2seq")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_share_a_prompt_draw_what_rows_with_copies_of_it_draw(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = model_of(kind)
    settings = {"num_responses": 6, "temperature": 5.0, "top_k": 0, "max_new_tokens": 24, "batch_size": 13}
    copies = generate_with_copies(lm, settings, monkeypatch)

    assert generate(lm, PROMPTS, seeds=[1, 2, 3, 4], **settings) == copies
    assert len({len(response.token_ids) for group in copies for response in group}) > 1


def generate_with_copies(lm: LanguageModel, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> object:
    with monkeypatch.context() as patched:
        patched.setattr("rso_core.generation._BRANCHES", 1000)
        return generate(lm, PROMPTS, seeds=[1, 2, 3, 4], **settings)


def test_a_layer_keeps_each_prompt_once_without_its_padding() -> None:
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])
    layer = CrossLayer(mask)
    keys = torch.randn(2, 4, 3, 8)
    layer.update(keys, keys)
    layer.reached = True

    layer.batch_select_indices(torch.tensor([0, 0, 0, 1, 1]))
    layer.batch_select_indices(torch.tensor([2, 3, 4]))

    assert layer._counts == [(0, 1), (1, 2)]
    assert {prompt: kept.shape for prompt, (kept, _) in layer._prompts.items()} == {0: (4, 1, 8), 1: (4, 3, 8)}
    layer.batch_select_indices(torch.tensor([1, 2]))
    assert list(layer._prompts) == [1]
