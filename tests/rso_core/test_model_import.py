import shutil
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from rso_core.errors import UserError
from rso_core.model_import import _hub_message, convert, download
from rso_core.models import load
from rso_core.templates import data_ids
from rso_core.vocabulary import Family
from tests.rso_core.toys import toy_model

FAMILIES: tuple[Family, ...] = ("causal", "seq2seq")
WIDTH, LAYERS, HEADS, WORDS = 64, 2, 4, 300
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def write_gguf(file: Path, *, architecture: str = "llama") -> dict[str, np.ndarray[Any, Any]]:
    """Write a tiny Llama with quantised matrices, as llama.cpp lays it out, and return its dequantised weights."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(WORDS)
    _write_tokenizer(writer)
    weights = _write_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    pieces = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet())]
    merges = [("t", "h"), ("th", "e"), ("c", "a")]
    pieces += ["".join(pair) for pair in merges]
    pieces += [f"<unused{i}>" for i in range(WORDS - len(pieces))]
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (WORDS - 3)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


def _write_weights(writer: gguf.GGUFWriter) -> dict[str, np.ndarray[Any, Any]]:
    generator, kind = np.random.default_rng(0), gguf.GGMLQuantizationType.Q8_0
    shapes = {"token_embd": (WORDS, WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{name}": (2 * WIDTH, WIDTH) for name in ("gate", "up")}
        shapes[f"blk.{i}.ffn_down"] = (WIDTH, 2 * WIDTH)
    found = {}
    for name, shape in shapes.items():
        packed = gguf.quantize(generator.normal(0, 0.2, shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
        found[name] = gguf.dequantize(packed, kind)
    for name in ("output_norm", *(f"blk.{i}.{part}_norm" for i in range(LAYERS) for part in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_imported_with_equal_weights_and_tokens(tmp_path: Path, family: Family) -> None:
    source = toy_model(tmp_path / "toy", family)

    found = convert(source, tmp_path / "model")

    ours, theirs = load(tmp_path / "model"), load(source)
    for name, value in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], value), name
    assert data_ids(ours.tokenizer, "the cat sat") == data_ids(theirs.tokenizer, "the cat sat")
    assert found["family"] == family


@pytest.mark.parametrize("given", ["source/tiny.gguf", "source"])
def test_a_gguf_file_becomes_a_plain_folder_with_its_weights_and_chat_template(tmp_path: Path, given: str) -> None:
    (tmp_path / "source").mkdir()
    weights = write_gguf(tmp_path / "source/tiny.gguf")

    found = convert(tmp_path / given, tmp_path / "model")

    lm = load(tmp_path / "model")
    state = lm.model.state_dict()
    np.testing.assert_array_equal(state["model.embed_tokens.weight"].numpy(), weights["token_embd"])
    np.testing.assert_array_equal(state["model.layers.1.mlp.down_proj.weight"].numpy(), weights["blk.1.ffn_down"])
    assert lm.tokenizer.chat_template == CHAT_TEMPLATE
    assert lm.tokenizer.decode(data_ids(lm.tokenizer, "the cat")) == "the cat"
    assert not hasattr(lm.model.config, "quantization_config")
    assert (found["family"], found["eos"], found["dtype"], found["context_limit"]) == (
        "causal",
        "<|im_end|>",
        "F32",
        128,
    )


def test_a_gguf_file_needs_no_ending_in_its_name(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "tiny.gguf").rename(tmp_path / "upload")

    assert convert(tmp_path / "upload", tmp_path / "model")["family"] == "causal"


def test_what_is_no_model_is_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    (tmp_path / "empty").mkdir()

    with pytest.raises(UserError, match=r"there is no model at .*; give a model folder or a \.gguf file"):
        convert(tmp_path / "nowhere", tmp_path / "model")
    with pytest.raises(UserError, match=r"notes\.txt is not a GGUF file"):
        convert(tmp_path / "notes.txt", tmp_path / "model")
    with pytest.raises(UserError, match=r"must hold config\.json, found nothing"):
        convert(tmp_path / "empty", tmp_path / "model")


def test_a_gguf_file_of_another_kind_or_cut_short_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf", architecture="bert")
    write_gguf(tmp_path / "short.gguf")
    (tmp_path / "short.gguf").write_bytes((tmp_path / "short.gguf").read_bytes()[:20_000])

    for name in ("other.gguf", "short.gguf"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a GGUF language model"):
            convert(tmp_path / name, tmp_path / "model")


def test_nothing_pickled_is_read(tmp_path: Path) -> None:
    source = toy_model(tmp_path / "toy", "causal")
    shutil.move(source / "model.safetensors", source / "pytorch_model.bin")

    with pytest.raises(UserError, match="only pickled weights"):
        convert(source, tmp_path / "model")


def test_a_download_without_a_network_says_so_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(UserError, match=r"seems to be offline\. Download the model elsewhere, copy its folder"):
        download("some-owner/some-model", "main", tmp_path / "model")


def test_a_download_of_an_impossible_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no public model 'not a name'"):
        download("not a name", "main", tmp_path / "model")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GatedRepoError, "asks for its terms to be accepted"),
        (RevisionNotFoundError, "has no revision 'v2' on the hub"),
        (RepositoryNotFoundError, "there is no public model 'a/b' on the hub"),
    ],
)
def test_each_answer_of_the_hub_has_its_own_advice(kind: Any, message: str) -> None:
    response = httpx.Response(404, request=httpx.Request("GET", "https://hub.invalid"))

    assert message in _hub_message("a/b", "v2", kind("not found", response=response))
