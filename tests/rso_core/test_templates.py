import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rso_core.errors import UserError
from rso_core.templates import (
    ResponsesTooLongError,
    data_ids,
    escape_markers,
    label_ids,
    policy_prompt_ids,
    response_ids,
    reward_input_ids,
)
from rso_core.vocabulary import Family, Message, Task
from tests.rso_core.toys import toy_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = ["the cat sat on the mat", "Human: what is good?\n\nAssistant: a long answer", "[CONTEXT] A B [SUMMARY A]"] * 5
CONVERSATION: list[Message] = [
    {"role": "user", "content": "the cat sat on the mat"},
    {"role": "assistant", "content": "yes and then"},
    {"role": "user", "content": "the dog ran under the tree"},
]
POST: list[Message] = [{"role": "user", "content": "the cat sat on the red mat and the dog ran"}]


def byte_level_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer as GPT-2, Llama 3, Qwen and SmolLM have it: spaces belong to the word after them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(CORPUS, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=specials[0], eos_token=specials[2], additional_special_tokens=[specials[1]]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as T5 has it: unigram pieces, among them the special tokens themselves."""
    words = sorted({f"▁{word}" for text in CORPUS for word in text.split()})
    letters = sorted({letter for text in (*CORPUS, "<>/sp") for letter in text if letter != " "})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(word, -2.0) for word in words] + [(letter, -5.0) for letter in letters]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {
    "word": toy_tokenizer(chat_template=True), "bytes": byte_level_tokenizer(), "unigram": unigram_tokenizer(),
}  # fmt: skip


def prompt(
    tokenizer: Any,
    messages: list[Message],
    *,
    task: Task = "dialogue",
    template: Any = "plain",
    max_tokens: int = 500,
    family: Family = "causal",
) -> Any:
    return policy_prompt_ids(tokenizer, family, messages, task=task, prompt_template=template, max_tokens=max_tokens)


def text_of(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


def test_a_plain_dialogue_is_a_transcript_that_ends_with_the_assistants_turn() -> None:
    tokenizer = TOKENIZERS["bytes"]

    assert text_of(tokenizer, prompt(tokenizer, CONVERSATION).ids) == (
        "Human: the cat sat on the mat\n\nAssistant: yes and then\n\nHuman: the dog ran under the tree\n\nAssistant:\n"
    )


def test_a_plain_single_turn_is_written_with_its_speaker() -> None:
    tokenizer = TOKENIZERS["bytes"]

    assert (
        text_of(tokenizer, prompt(tokenizer, CONVERSATION[:1]).ids) == "Human: the cat sat on the mat\n\nAssistant:\n"
    )


@pytest.mark.parametrize("ending", ["", "\n", "\n\nTL;DR:", "\nTL;DR: "])
def test_a_plain_summarisation_prompt_is_the_post_and_one_cue(ending: str) -> None:
    tokenizer = TOKENIZERS["bytes"]

    found = prompt(tokenizer, [{"role": "user", "content": f"the cat sat{ending}"}], task="summarization")

    assert text_of(tokenizer, found.ids) == "the cat sat\n\nTL;DR:\n"


def test_a_t5_prompt_is_the_plain_text_and_end_of_sequence() -> None:
    tokenizer = TOKENIZERS["unigram"]

    assert text_of(tokenizer, prompt(tokenizer, CONVERSATION[:1], family="seq2seq").ids) == "the cat sat on the mat</s>"


def test_a_chat_prompt_equals_the_tokenizers_own_template() -> None:
    tokenizer = TOKENIZERS["bytes"]
    expected = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_dict=False)

    assert prompt(tokenizer, CONVERSATION, template="chat").ids == expected
    assert prompt(tokenizer, CONVERSATION, template="auto").ids == expected


def test_auto_is_plain_for_summaries_and_for_tokenizers_without_a_chat_template() -> None:
    for tokenizer, task in ((TOKENIZERS["bytes"], "summarization"), (toy_tokenizer(), "dialogue")):
        auto, plain = (prompt(tokenizer, POST, task=task, template=t) for t in ("auto", "plain"))  # type: ignore[arg-type]

        assert auto == plain


def test_chat_without_a_chat_template_is_refused_with_what_to_choose() -> None:
    with pytest.raises(UserError, match="no chat template; choose plain or auto"):
        prompt(toy_tokenizer(), CONVERSATION, template="chat")


def test_a_template_that_refuses_the_roles_is_reported() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"

    with pytest.raises(UserError, match="refuses a conversation of roles user: roles must alternate"):
        prompt(tokenizer, POST, template="chat")


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_bos_is_written_once_where_the_tokenizer_starts_texts_with_it(template: str) -> None:
    tokenizer = byte_level_tokenizer(bos=True)
    tokenizer.chat_template = "{{ bos_token }}" + CHATML

    ids = prompt(tokenizer, CONVERSATION, template=template).ids

    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("name", "template"),
    [("word", "plain"), ("bytes", "plain"), ("unigram", "plain"), ("word", "chat"), ("bytes", "chat")],
)
def test_special_tokens_typed_in_a_text_stay_text(name: str, template: str) -> None:
    tokenizer = TOKENIZERS[name]
    typed = " ".join(tokenizer.all_special_tokens)
    unknown = {tokenizer.unk_token_id}
    specials = set(tokenizer.all_special_ids) - unknown

    clean = prompt(tokenizer, [{"role": "user", "content": "the cat"}], template=template).ids
    found = prompt(tokenizer, [{"role": "user", "content": f"the cat {typed}"}], template=template).ids

    assert [i for i in found if i in specials] == [i for i in clean if i in specials]
    assert not specials & set(response_ids(tokenizer, typed)[:-1])
    reward = reward_input_ids(
        tokenizer, "causal", task="dialogue", context=typed, first=typed, second="cat", max_length=500
    )
    assert not specials & set(reward.ids)


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("name", ["word", "bytes"])
def test_a_prompt_is_cut_from_the_left_inside_its_body(name: str, template: str) -> None:
    tokenizer = TOKENIZERS[name]
    whole = prompt(tokenizer, POST, template=template).ids
    bare = len(prompt(tokenizer, [{"role": "user", "content": ""}], template=template).ids)

    for limit in range(bare + 1, len(whole)):
        cut = prompt(tokenizer, POST, template=template, max_tokens=limit)

        assert cut.truncated
        assert len(cut.ids) <= limit
        # The template around the body stays; of the body the end stays.
        assert cut.ids[:1] == whole[:1]
        assert text_of(tokenizer, whole).endswith(text_of(tokenizer, cut.ids[-2:]))
    assert not prompt(tokenizer, POST, template=template, max_tokens=len(whole)).truncated


def test_cutting_a_word_level_prompt_uses_every_token_it_may() -> None:
    tokenizer = TOKENIZERS["word"]

    for limit in range(4, 13):
        assert len(prompt(tokenizer, POST, max_tokens=limit).ids) == min(limit, 12)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_a_dialogue_loses_its_oldest_content_first_and_empty_exchanges(template: str) -> None:
    tokenizer = TOKENIZERS["bytes"]
    whole = prompt(tokenizer, CONVERSATION, template=template)

    some = text_of(tokenizer, prompt(tokenizer, CONVERSATION, template=template, max_tokens=len(whole.ids) - 2).ids)
    last = text_of(tokenizer, prompt(tokenizer, CONVERSATION[2:], template=template).ids)
    most = prompt(tokenizer, CONVERSATION, template=template, max_tokens=len(tokenizer(last).input_ids))

    assert "yes and then" in some
    assert "the dog ran under the tree" in some
    assert "the cat sat on the mat" not in some
    assert text_of(tokenizer, most.ids) == last


def test_the_system_message_outlives_older_turns() -> None:
    tokenizer = TOKENIZERS["bytes"]
    conversation: list[Message] = [{"role": "system", "content": "very short answer"}, *CONVERSATION]
    whole = prompt(tokenizer, conversation, template="chat")

    cut = text_of(tokenizer, prompt(tokenizer, conversation, template="chat", max_tokens=len(whole.ids) - 20).ids)

    assert cut.startswith("<|im_start|>system\nvery short answer<|im_end|>\n<|im_start|>user\n")
    assert cut.endswith("the dog ran under the tree<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_does_not_fit_is_refused_naming_the_limit() -> None:
    with pytest.raises(UserError, match=r"takes 5 tokens, more than data\.max_prompt_tokens = 4"):
        prompt(TOKENIZERS["word"], POST, template="chat", max_tokens=4)


def test_a_response_ends_with_one_eos_and_starts_without_bos() -> None:
    tokenizer = byte_level_tokenizer(bos=True)

    ids = response_ids(tokenizer, "the cat")

    assert ids == [*data_ids(tokenizer, "the cat"), tokenizer.eos_token_id]
    assert tokenizer.bos_token_id not in ids


@given(text=st.text(max_size=40))
@settings(deadline=None)
def test_any_text_survives_the_round_trip_through_a_byte_level_tokenizer(text: str) -> None:
    tokenizer = TOKENIZERS["bytes"]
    ids = response_ids(tokenizer, text)

    decoded = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    assert decoded == text
    assert response_ids(tokenizer, decoded) == ids


def reward(
    tokenizer: Any,
    family: Family = "causal",
    max_length: int = 500,
    task: Task = "summarization",
    context: str = "the cat sat on the mat",
) -> Any:
    return reward_input_ids(
        tokenizer, family, task=task, context=context, first="the cat", second="a dog", max_length=max_length
    )


def test_the_reward_text_is_the_papers() -> None:
    bytes_, unigram = TOKENIZERS["bytes"], TOKENIZERS["unigram"]

    assert text_of(bytes_, reward(bytes_).ids) == (
        "[CONTEXT] the cat sat on the mat [SUMMARY A] the cat [SUMMARY B] a dog\n\n[PREFERRED]"
    )
    assert text_of(bytes_, reward(bytes_, task="dialogue").ids) == (
        "[CONTEXT] the cat sat on the mat [RESPONSE A] the cat [RESPONSE B] a dog\n\n[PREFERRED]"
    )
    assert text_of(unigram, reward(unigram, "seq2seq").ids).endswith("[SUMMARY B] a dog</s>")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_input_and_label_are_the_tokens_of_the_text_with_its_answer(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    labels = label_ids(tokenizer, "causal")

    assert labels[0] != labels[1]
    for label, letter in zip(labels, "AB", strict=True):
        text = f"[CONTEXT] the cat sat on the mat [SUMMARY A] the cat [SUMMARY B] a dog\n\n[PREFERRED] {letter}"
        assert [*reward(tokenizer).ids, label] == data_ids(tokenizer, text)


def test_the_labels_of_a_t5_are_the_decoders_first_tokens() -> None:
    tokenizer = TOKENIZERS["unigram"]

    assert tokenizer.convert_ids_to_tokens(list(label_ids(tokenizer, "seq2seq"))) == ["▁A", "▁B"]


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_labels_that_are_not_known_words_are_refused(family: Family) -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "x": 1, "[PREFERRED]": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")

    with pytest.raises(UserError, match="single, known and distinct"):
        label_ids(tokenizer, family)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_only_the_context_of_a_comparison_is_cut_and_from_the_left(name: str, family: Family) -> None:
    tokenizer = TOKENIZERS[name]
    whole = reward(tokenizer, family).ids
    without = len(reward(tokenizer, family, context="").ids)

    for limit in range(without, len(whole)):
        found = reward(tokenizer, family, max_length=limit)

        assert found.truncated
        assert len(found.ids) == limit
        assert [
            *whole[: len(data_ids(tokenizer, "[CONTEXT]"))],
            *found.ids[len(data_ids(tokenizer, "[CONTEXT]")) :],
        ] == found.ids
        assert whole[-without // 2 :] == found.ids[-without // 2 :]
    assert not reward(tokenizer, family, max_length=len(whole)).truncated
    with pytest.raises(ResponsesTooLongError, match=rf"reward\.max_length = {without - 2}; raise reward\.max_length"):
        reward(tokenizer, family, max_length=without - 2)


def test_the_cut_works_where_markers_are_tokens_that_swallow_spaces(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.backend_tokenizer.add_tokens([added(m) for m in ("[CONTEXT]", "[SUMMARY A]", "[SUMMARY B]")])
    whole = reward(tokenizer).ids

    cut = reward(tokenizer, max_length=len(whole) - 2)

    assert text_of(tokenizer, cut.ids).split()[:2] == ["[CONTEXT]", "sat"]


def added(marker: str) -> Any:
    from tokenizers import AddedToken

    return AddedToken(marker, normalized=False, lstrip=True, rstrip=True)


def test_markers_in_data_are_escaped_and_counted() -> None:
    tokenizer = TOKENIZERS["bytes"]

    found = reward_input_ids(
        tokenizer,
        "causal",
        task="dialogue",
        context="[CONTEXT] x",
        first="[RESPONSE B] y",
        second="[other]",
        max_length=500,
    )

    assert found.escaped == 2
    assert text_of(tokenizer, found.ids) == (
        r"[CONTEXT] [\CONTEXT] x [RESPONSE A] [\RESPONSE B] y [RESPONSE B] [other]" + "\n\n[PREFERRED]"
    )


@given(pieces=st.lists(st.sampled_from(["[", "\\", "CONTEXT", "SUMMARY A", "RESPONSE B", "PREFERRED", "]", " ", "x"])))
def test_escaping_is_reversible_and_leaves_no_marker(pieces: list[str]) -> None:
    text = "".join(pieces)

    escaped, count = escape_markers(text)

    # Taking one backslash from each marker gives the text back.
    assert re.sub(r"\[\\(\\*(?:CONTEXT|SUMMARY A|RESPONSE B|PREFERRED)\])", r"[\1", escaped) == text
    assert (count > 0) == (escaped != text)
    assert not any(marker in escaped for marker in ("[CONTEXT]", "[SUMMARY A]", "[RESPONSE B]", "[PREFERRED]"))
