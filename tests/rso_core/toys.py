"""Tiny models of both families, built in the test: a word-level tokenizer and a few thousand weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from rso_core.vocabulary import Family

# Words of the templates (prompt cues, markers of the reward text, labels), then words to write texts with.
TEMPLATE_WORDS = (
    "A", "B", "[CONTEXT]", "[SUMMARY", "[RESPONSE", "A]", "B]", "[PREFERRED]", "TL;DR:", "Human:", "Assistant:",
    "System:", "user", "assistant", "system",
)  # fmt: skip
WORDS = (
    "the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "good", "bad", "very", "short", "long",
    "post", "summary", "question", "answer", "yes", "no", "and", "then", "red", "blue", "green",
)  # fmt: skip
SPECIALS = ("<pad>", "</s>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def toy_tokenizer(words: Sequence[str] = WORDS, *, chat_template: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer that splits at white space; unknown words become <unk>.

    Special tokens are added tokens, not words, so that "</s>" typed in a text is an unknown word.
    """
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(("<unk>", *TEMPLATE_WORDS, *words)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(SPECIALS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="</s>",
        additional_special_tokens=list(SPECIALS[2:]),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat_template else None
    return tokenizer


def toy_model(
    folder: Path,
    family: Family,
    *,
    words: Sequence[str] = WORDS,
    chat_template: bool = False,
    seed: int = 0,
    width: int = 32,
    context: int = 256,
) -> Path:
    """Write a model of two layers with its tokenizer into `folder` and return it.

    Its weights are large enough (standard deviation 0.3) that next-token distributions are far from uniform.
    """
    tokenizer = toy_tokenizer(words, chat_template=chat_template)
    build = _llama if family == "causal" else _t5
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(tokenizer, width, context)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _llama(tokenizer: PreTrainedTokenizerFast, width: int, context: int) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            initializer_range=0.3,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _t5(tokenizer: PreTrainedTokenizerFast, width: int, context: int) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=width // 4,
            d_ff=2 * width,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            initializer_factor=1.0,
            tie_word_embeddings=True,
            dropout_rate=0.1,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )
