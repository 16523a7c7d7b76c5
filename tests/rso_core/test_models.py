import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

from rso_core.errors import UserError
from rso_core.grouped_forward import Group, response_log_probs
from rso_core.models import (
    LanguageModel,
    add_lora,
    describe,
    linear_layers,
    load,
    load_tokenizer,
    merge_lora,
    save,
    set_threads_and_seed,
    tokenizer_digest,
)
from rso_core.vocabulary import Family
from tests.rso_core.toys import WORDS, toy_model, toy_tokenizer

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
GROUPS = [Group([18, 20, 22], [[23, 24, 43], [25, 43]])]


def log_probs(lm: LanguageModel) -> torch.Tensor:
    return torch.cat(response_log_probs(lm, GROUPS, batch_size=4))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def edit_json(file: Path, **changes: Any) -> None:
    values = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}), encoding="utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_loaded_ready_to_measure(tmp_path: Path, family: Family) -> None:
    lm = load(toy_model(tmp_path, family))

    assert (lm.family, lm.dtype, lm.device.type) == (family, torch.float32, "cpu")
    assert not lm.model.training
    assert (lm.eos_id, lm.pad_id) == (lm.tokenizer.eos_token_id, lm.tokenizer.pad_token_id)


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_gives_the_same_bytes_and_the_same_model(tmp_path: Path, family: Family) -> None:
    lm = load(toy_model(tmp_path / "toy", family, chat_template=True))

    save(lm, tmp_path / "a")
    again = load(tmp_path / "a")
    save(again, tmp_path / "b")

    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert torch.equal(log_probs(lm), log_probs(again))
    assert again.tokenizer.chat_template == lm.tokenizer.chat_template
    assert tokenizer_digest(again.tokenizer) == tokenizer_digest(lm.tokenizer)


def test_bfloat16_weights_are_saved_as_they_are(tmp_path: Path) -> None:
    lm = load(toy_model(tmp_path / "toy", "causal"), dtype="bfloat16")

    save(lm, tmp_path / "saved")

    assert describe(tmp_path / "saved")["dtype"] == "BF16"
    again = load(tmp_path / "saved", dtype="bfloat16")
    assert torch.equal(log_probs(lm), log_probs(again))


def test_saved_sampling_defaults_are_forgotten(tmp_path: Path) -> None:
    toy_model(tmp_path / "toy", "causal")
    settings = {"do_sample": True, "temperature": 0.1, "top_k": 2, "repetition_penalty": 5.0}
    (tmp_path / "toy/generation_config.json").write_text(json.dumps(settings), encoding="utf-8")

    save(load(tmp_path / "toy"), tmp_path / "saved")

    left = json.loads((tmp_path / "saved/generation_config.json").read_text(encoding="utf-8"))
    assert not left.keys() & settings.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_what_is_asked_for_and_off_by_default(tmp_path: Path, family: Family) -> None:
    folder = toy_model(tmp_path, family)

    off, on = load(folder), load(folder, dropout=0.5)

    off.model.train()
    assert torch.equal(log_probs(off), log_probs(off))
    on.model.train()
    assert not torch.equal(log_probs(on), log_probs(on))
    on.model.eval()
    assert torch.equal(log_probs(on), log_probs(off.__class__(off.model.eval(), off.tokenizer, family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_start_as_the_identity_and_merge_into_a_plain_model(tmp_path: Path, family: Family) -> None:
    folder = toy_model(tmp_path / "toy", family)
    lm = load(folder)
    before = log_probs(lm).detach()

    adapted = add_lora(lm, rank=4, alpha=8, seed=0)
    torch.testing.assert_close(log_probs(adapted), before, atol=1e-5, rtol=0)
    optimizer = torch.optim.SGD([p for p in adapted.model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward([-log_probs(adapted).sum()])
        optimizer.step()
    trained = log_probs(adapted).detach()
    assert (trained > before).all()
    weights = {name.replace(".base_layer", ""): p for name, p in adapted.plain.named_parameters()}
    original = dict(load(folder).model.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in original.items())
    merged = merge_lora(adapted)

    torch.testing.assert_close(log_probs(merged), trained, atol=1e-4, rtol=0)
    save(merged, tmp_path / "merged")
    torch.testing.assert_close(log_probs(load(tmp_path / "merged")), trained, atol=1e-4, rtol=0)
    assert load_file(tmp_path / "merged/model.safetensors").keys() == load_file(folder / "model.safetensors").keys()


def test_adapters_are_a_function_of_their_seed(tmp_path: Path) -> None:
    folder = toy_model(tmp_path, "causal")

    one, same, other = (
        {n: p for n, p in add_lora(load(folder), rank=2, alpha=4, seed=seed).model.named_parameters() if "lora_A" in n}
        for seed in (1, 1, 2)
    )

    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("family", "a_layer", "layers"), [("causal", 7, 2), ("seq2seq", 8, 2)])
def test_adapters_go_on_every_linear_layer_of_attention_and_mlp(
    tmp_path: Path, family: Family, a_layer: int, layers: int
) -> None:
    names = linear_layers(load(toy_model(tmp_path, family)).model)

    # Llama: q k v o, gate up down. T5's encoder: q k v o, wi wo; its decoder has q k v o once more.
    expected = a_layer * layers if family == "causal" else (6 + 10) * layers
    assert len(names) == expected
    assert not any("lm_head" in name for name in names)


def test_saving_adapters_unmerged_is_a_mistake(tmp_path: Path) -> None:
    lm = add_lora(load(toy_model(tmp_path / "toy", "causal")), rank=2, alpha=4, seed=0)

    with pytest.raises(ValueError, match="merge the adapters"):
        save(lm, tmp_path / "saved")


def test_a_description_reads_what_people_ask_for(tmp_path: Path) -> None:
    folder = toy_model(tmp_path, "causal", chat_template=True)

    found = describe(folder)

    model = load(folder).model
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["vocabulary"] == model.config.vocab_size
    expected = {"family": "causal", "architecture": "llama", "chat_template": True, "eos": "</s>", "pad": "<pad>"}
    assert {name: found[name] for name in expected} == expected
    assert found["dtype"] == "F32"
    assert found["context_limit"] == 256


def test_the_tokenizer_digest_follows_the_words_not_the_chat_template() -> None:
    plain, chat, other = toy_tokenizer(), toy_tokenizer(chat_template=True), toy_tokenizer([*WORDS, "new"])

    assert tokenizer_digest(plain) == tokenizer_digest(chat)
    assert tokenizer_digest(plain) != tokenizer_digest(other)


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def unknown_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="own_model", auto_map={"AutoConfig": "evil.Config"})


def encoder_only(folder: Path) -> None:
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(folder)


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_the_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "layers.1" not in n}, folder / "model.safetensors", {"format": "pt"})


def broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def without_eos(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", eos_token=None)


def another_models_tokenizer(folder: Path) -> None:
    toy_tokenizer([*WORDS, *(f"word{i}" for i in range(50))]).save_pretrained(folder)


BAD_FOLDERS = [
    (without_config, "must hold config.json"),
    (unknown_architecture, "names no architecture this product knows"),
    (encoder_only, "needs a decoder-only or T5-family model, got 'bert'"),
    (only_pickled, r"only pickled weights \(pytorch_model.bin\).*save the model as safetensors"),
    (without_weights, "holds no weights"),
    (half_the_weights, "lacks weights of its architecture"),
    (broken_weights, "cannot be read"),
    (without_tokenizer, "has no tokenizer: tokenizer.json is required"),
    (broken_tokenizer, "tokenizer in toy cannot be read"),
    (without_eos, "no end-of-sequence token"),
    (another_models_tokenizer, "has 96 tokens, its model only 46"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_FOLDERS, ids=[spoil.__name__ for spoil, _ in BAD_FOLDERS])
def test_a_folder_that_cannot_serve_is_refused_with_what_to_do(tmp_path: Path, spoil: Any, message: str) -> None:
    folder = toy_model(tmp_path / "toy", "causal")
    spoil(folder)

    with pytest.raises(UserError, match=message):
        load(folder)


def test_the_tokenizer_can_be_had_without_the_weights(tmp_path: Path) -> None:
    folder = toy_model(tmp_path, "seq2seq")
    (folder / "model.safetensors").unlink()

    tokenizer, family = load_tokenizer(folder)

    assert family == "seq2seq"
    assert tokenizer.eos_token == "</s>"


def test_the_thread_count_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("RSO_THREADS", "1")
        set_threads_and_seed(5)
        drawn = torch.rand(3)
        set_threads_and_seed(5)

        assert torch.get_num_threads() == 1
        assert torch.equal(torch.rand(3), drawn)
        monkeypatch.setenv("RSO_THREADS", "many")
        with pytest.raises(UserError, match="RSO_THREADS must be a number of threads, 1 or more, got 'many'"):
            set_threads_and_seed(5)
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(False)
