import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from rso_core.errors import UserError
from rso_core.mini_news import generate_articles
from rso_core.mini_tldr import generate_dataset
from rso_core.mini_tldr_model import write_base_model
from rso_core.vocabulary import Family


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_a_base_model_is_a_function_of_family_and_seed(tmp_path: Path, family: Family) -> None:
    first = digests(write_base_model(tmp_path / "a", family, seed=3))
    assert first == digests(write_base_model(tmp_path / "b", family, seed=3))
    other = digests(write_base_model(tmp_path / "c", family, seed=4))
    assert first["model.safetensors"] != other["model.safetensors"]
    assert first["tokenizer.json"] == other["tokenizer.json"]


@pytest.mark.parametrize(("family", "auto"), [("causal", AutoModelForCausalLM), ("seq2seq", AutoModelForSeq2SeqLM)])
def test_a_base_model_loads_from_its_folder_alone_and_is_small(tmp_path: Path, family: Family, auto: Any) -> None:
    folder = write_base_model(tmp_path / family, family)
    model = auto.from_pretrained(folder, local_files_only=True)
    assert model.num_parameters() < 1_500_000
    assert len(AutoTokenizer.from_pretrained(folder, local_files_only=True)) == model.config.vocab_size


def test_every_text_of_the_task_survives_the_tokenizer_without_unknown_words(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_base_model(tmp_path / "base"), local_files_only=True)
    rows = [row for kind in ("sft", "preference") for row in generate_dataset(kind, size=300)]
    rows += generate_articles(size=300)
    for text in (row[name] for row in rows for name in ("prompt", "target", "chosen", "rejected") if name in row):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_the_labels_of_the_reward_model_and_its_markers_are_single_tokens(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_base_model(tmp_path / "base"), local_files_only=True)
    labels = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in ("A", "B", " A", " B")]
    assert all(len(ids) == 1 for ids in labels)
    assert labels[0] == labels[2] != labels[1] == labels[3]
    text = "[CONTEXT] my boss [SUMMARY A] it [SUMMARY B] it\n\n[PREFERRED] A"
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 9


def test_pretrained_weights_are_the_same_whatever_the_seed_and_decoder_only(tmp_path: Path) -> None:
    found = [digests(write_base_model(tmp_path / str(seed), seed=seed, weights="pretrained")) for seed in (0, 1)]
    assert found[0] == found[1] != digests(write_base_model(tmp_path / "random"))
    with pytest.raises(UserError, match="for the family causal, pretrained; got 'pretrained' for seq2seq"):
        write_base_model(tmp_path / "base", "seq2seq", weights="pretrained")


def test_weights_of_another_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"other": torch.zeros(1)}, tmp_path / "weights.safetensors")
    monkeypatch.setattr("rso_core.mini_tldr_model.PRETRAINED", tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"is not of this model.*make mini-weights"):
        write_base_model(tmp_path / "base", weights="pretrained")


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="causal or seq2seq"):
        write_base_model(tmp_path / "base", "rnn")  # type: ignore[arg-type]
