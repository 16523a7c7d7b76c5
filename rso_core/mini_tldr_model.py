"""The base model of the built-in task: a tiny, randomly initialised language model with a word-level tokenizer.

Both families exist. A policy's has learned nothing: the `sft` stage trains it from scratch in a minute on two cores.
The reward model starts from pretrained weights, as the paper's does.
"""

from pathlib import Path
from typing import Any, Literal

from rso_core.errors import UserError
from rso_core.mini_news import article_words
from rso_core.mini_tldr import vocabulary_words
from rso_core.vocabulary import Family

# Markers of the templates of policy and reward model, one token each.
_MARKERS = (
    *(f"[{name}]" for name in ("CONTEXT", "SUMMARY A", "SUMMARY B", "RESPONSE A", "RESPONSE B", "PREFERRED")),
    "TL;DR:",
)
_LABELS = ("A", "B")
_MARKS = (".", ",", "!", "?", ":", ";")
_PAD, _EOS, _UNKNOWN = "<pad>", "</s>", "<unk>"
_MAX_POSITIONS = 512

# Half a million weights in bfloat16. `python -m rso_core.mini_tldr_pretraining` made them; how, it says.
PRETRAINED = Path(__file__).parent / "weights" / "mini_tldr.safetensors"


def write_base_model(
    folder: Path, family: Family = "causal", seed: int = 0, weights: Literal["random", "pretrained"] = "random"
) -> Path:
    """Write the model of a family with its tokenizer into `folder`; equal seeds, equal bytes.

    `weights`: drawn by seed, or those of the file that comes with the product (decoder-only). Raises UserError.
    """
    import torch

    _refuse_impossible(family, weights)
    tokenizer = new_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (new_decoder if family == "causal" else _encoder_decoder)(tokenizer)
    if weights == "pretrained":
        _load_pretrained(model)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _refuse_impossible(family: str, weights: str) -> None:
    if family not in ("causal", "seq2seq"):
        message = f"`family` of the mini_tldr base model must be causal or seq2seq, got {family!r}"
        raise UserError(message)
    if weights not in ("random", "pretrained") or (weights == "pretrained" and family != "causal"):
        message = (
            f"`weights` of the mini_tldr base model must be random or, for the family causal, pretrained; got {weights!r} "
            f"for {family}"
        )
        raise UserError(message)


def _load_pretrained(model: Any) -> None:
    """Fill a model with the weights that come with the product; every one of them, and no other."""
    from safetensors.torch import load_file

    found = model.load_state_dict(load_file(PRETRAINED), strict=False)
    if found.unexpected_keys or found.missing_keys != ["lm_head.weight"]:  # the embedding's
        message = f"{PRETRAINED} is not of this model: {found}; make it again with `make mini-weights`"
        raise UserError(message)


def new_tokenizer() -> Any:
    """Return a tokenizer with one token a word; decoding puts marks back onto their words, so texts survive."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = [_PAD, _EOS, _UNKNOWN, *_LABELS, *_MARKS, *sorted({*vocabulary_words(), *article_words()})]
    model = models.WordLevel({word: index for index, word in enumerate(entries)}, unk_token=_UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_tokens([AddedToken(marker, normalized=False, lstrip=True, rstrip=True) for marker in _MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_EOS, unk_token=_UNKNOWN, model_max_length=_MAX_POSITIONS
    )


def new_decoder(tokenizer: Any) -> Any:
    """Return the decoder-only model with weights drawn from torch's own generator."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=_MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.08,  # at 0.02 a model this small learns several times slower
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _encoder_decoder(tokenizer: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=384,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)
