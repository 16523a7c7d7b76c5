"""How prompts and responses become token ids: for the policy, and for the pairwise reward-ranking model.

Text from data never becomes a special token: only templates write those. When something must be cut it is the
prompt, from the left, inside its body; the template's own tokens stay, responses are never cut.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from jinja2.exceptions import TemplateError

from rso_core.errors import UserError
from rso_core.vocabulary import Family, Message, Task, transcript

PromptTemplate = Literal["auto", "chat", "plain"]

# What stands between a plain prompt and the response of a decoder-only model. Both end with a line break, so
# that a response starts with its own first token, not with a space that its text does not have.
PLAIN_CUE: dict[Task, str] = {"summarization": "\n\nTL;DR:\n", "dialogue": "\n\nAssistant:\n"}

# Reward-ranking model: what the two responses are called, and the cue for the label (decoder-only models; ours).
SECTION: dict[Task, str] = {"summarization": "SUMMARY", "dialogue": "RESPONSE"}
PREFERRED_CUE = "\n\n[PREFERRED] "
_MARKER = re.compile(r"\[(\\*)(CONTEXT|(?:SUMMARY|RESPONSE) [AB]|PREFERRED)\]")


class ResponsesTooLongError(UserError):
    """Two responses alone do not fit the reward model's `max_length`."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as the policy reads it; `truncated` when its body was cut from the left."""

    ids: list[int]
    truncated: bool


@dataclass(frozen=True)
class RewardInput:
    """A comparison as the reward-ranking model reads it.

    `truncated`: the context was cut from the left. `escaped`: bracket markers found in the data and escaped.
    """

    ids: list[int]
    truncated: bool
    escaped: int


def data_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of text from data: no special token is added, and none is recognised."""
    ids: list[int] = _encode(tokenizer, defuse(tokenizer, text))["input_ids"]
    return ids


def _encode(tokenizer: Any, text: str, **options: Any) -> Any:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False, **options)


def defuse(tokenizer: Any, text: str) -> str:
    """Return `text` with special tokens that the tokenizer would recognise even as text broken by a space.

    Byte-pair tokenizers have none; T5's (unigram) holds "</s>" as an ordinary piece.
    """
    leaky = _leaky_specials(tokenizer)
    return text if leaky is None else leaky.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


@lru_cache(maxsize=8)
def _leaky_specials(tokenizer: Any) -> re.Pattern[str] | None:
    found = [
        token
        for token in tokenizer.all_special_tokens
        if tokenizer.convert_tokens_to_ids(token) in _encode(tokenizer, token)["input_ids"]
    ]
    return re.compile("|".join(re.escape(token) for token in sorted(found, key=len, reverse=True))) if found else None


@lru_cache(maxsize=8)
def _opening(tokenizer: Any) -> tuple[int, ...]:
    """Return (BOS,) when this tokenizer starts texts with it, else ()."""
    first = tokenizer("")["input_ids"][:1]
    return tuple(first) if first and first[0] == tokenizer.bos_token_id else ()


def response_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a response: no BOS, EOS at the end."""
    return [*data_ids(tokenizer, text), int(tokenizer.eos_token_id)]


def policy_prompt_ids(
    tokenizer: Any,
    family: Family,
    messages: Sequence[Message],
    *,
    task: Task,
    prompt_template: PromptTemplate,
    max_tokens: int,
) -> Prompt:
    """Return the prompt as the policy reads it, at most `max_tokens` long.

    Raises UserError when a chat template is asked for and there is none, when the template refuses the
    conversation, or when the template's own tokens do not fit.
    """
    render = _renderer(tokenizer, family, task=task, prompt_template=prompt_template)
    ids = render(messages)
    if len(ids) <= max_tokens:
        return Prompt(ids, truncated=False)
    cuts = _cuts(tokenizer, messages)
    fewest = bisect_left(cuts, True, key=lambda cut: len(render(_after(messages, cut))) <= max_tokens)
    if fewest == len(cuts):
        bare = len(render(_after(messages, cuts[-1])))
        message = (
            f"the prompt template alone takes {bare} tokens, more than data.max_prompt_tokens = {max_tokens}; "
            f"raise data.max_prompt_tokens above {bare}"
        )
        raise UserError(message)
    return Prompt(render(_after(messages, cuts[fewest])), truncated=True)


def template_in_use(
    tokenizer: Any, family: Family, task: Task, prompt_template: PromptTemplate
) -> Literal["chat", "plain"]:
    """Return what `prompt_template` comes to. Raises UserError when `chat` is asked for without a chat template."""
    has_template = bool(tokenizer.chat_template)
    if prompt_template == "auto":
        return "chat" if has_template and task == "dialogue" and family == "causal" else "plain"
    if prompt_template == "chat" and not has_template:
        message = "model.prompt_template is chat, but the model's tokenizer has no chat template; choose plain or auto, or another model"
        raise UserError(message)
    return prompt_template


def _renderer(
    tokenizer: Any, family: Family, *, task: Task, prompt_template: PromptTemplate
) -> Callable[[Sequence[Message]], list[int]]:
    if template_in_use(tokenizer, family, task, prompt_template) == "chat":
        return lambda messages: _chat_ids(tokenizer, family, messages)
    return lambda messages: _plain_ids(tokenizer, family, messages, task)


def free_prompt_ids(tokenizer: Any, family: Family, text: str) -> list[int]:
    """Return a text as a model reads it that is to go on with it: a user's message where there is a chat template."""
    if tokenizer.chat_template and family == "causal":
        return _chat_ids(tokenizer, family, [{"role": "user", "content": text}])
    opening = _opening(tokenizer) if family == "causal" else ()
    return _closed(tokenizer, family, [*opening, *data_ids(tokenizer, text)])


def _chat_ids(tokenizer: Any, family: Family, messages: Sequence[Message]) -> list[int]:
    safe = [{"role": m["role"], "content": defuse(tokenizer, m["content"])} for m in messages]
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            safe, add_generation_prompt=True, tokenize=True, return_dict=False, sanitize_control_tokens=True
        )
    except (TemplateError, ValueError) as error:
        roles = ", ".join(m["role"] for m in messages)
        message = f"the model's chat template refuses a conversation of roles {roles}: {error}; choose model.prompt_template plain"
        raise UserError(message) from error
    return _closed(tokenizer, family, ids)


def _plain_ids(tokenizer: Any, family: Family, messages: Sequence[Message], task: Task) -> list[int]:
    if family == "seq2seq":
        return _closed(tokenizer, family, data_ids(tokenizer, transcript(messages)))
    cue = PLAIN_CUE[task]
    body = (transcript(messages) if task == "summarization" else _dialogue(messages)).rstrip()
    # TL;DR posts are often published with their cue: it is not written twice.
    text = body.removesuffix(cue.strip()).rstrip() + cue
    return [*_opening(tokenizer), *data_ids(tokenizer, text)]


def _dialogue(messages: Sequence[Message]) -> str:
    """Return the transcript with speakers, also for a single turn."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return f"Human: {messages[0]['content']}"
    return transcript(messages)


def _closed(tokenizer: Any, family: Family, ids: list[int]) -> list[int]:
    """Return `ids` with the end-of-sequence that a T5 encoder expects."""
    eos = int(tokenizer.eos_token_id)
    return [*ids, eos] if family == "seq2seq" and ids[-1:] != [eos] else ids


Cut = tuple[int, ...]  # characters removed from the left of each message


def _cuts(tokenizer: Any, messages: Sequence[Message]) -> list[Cut]:
    """Return every way to cut whole tokens, the shortest cut first: oldest content first, system and last turn last."""
    last = len(messages) - 1
    early = [i for i, m in enumerate(messages[:-1]) if m["role"] != "system"]
    system = [i for i, m in enumerate(messages[:-1]) if m["role"] == "system"]
    removed, cuts = [0] * len(messages), []
    for i in (*early, *system, last):
        content = messages[i]["content"]
        starts = [start for start, _ in _encode(tokenizer, content, return_offsets_mapping=True)["offset_mapping"]]
        for position in (*starts[1:], len(content)):
            removed[i] = position
            cuts.append(tuple(removed))
    return cuts


def _after(messages: Sequence[Message], cut: Cut) -> list[Message]:
    """Return the conversation after a cut, without the exchanges of which nothing is left."""
    kept: list[Message] = [{"role": m["role"], "content": m["content"][n:]} for m, n in zip(messages, cut, strict=True)]
    turns = [i for i, m in enumerate(kept) if m["role"] != "system"]
    first = next((i for i in turns if cut[i] < len(messages[i]["content"])), len(kept) - 1)
    start = max((i for i in turns if i <= first and kept[i]["role"] == "user"), default=0)
    return [m for i, m in enumerate(kept) if i >= start or m["role"] == "system"]


def escape_markers(text: str) -> tuple[str, int]:
    r"""Return `text` with bracket markers escaped ("[CONTEXT]" becomes "[\CONTEXT]") and how many there were."""
    return _MARKER.subn(r"[\\\1\2]", text)


def reward_text(task: Task, context: str, first: str, second: str) -> str:
    """Return the reward-ranking model's input, exactly as the paper writes it."""
    section = SECTION[task]
    return f"[CONTEXT] {context} [{section} A] {first} [{section} B] {second}"


def reward_input_ids(
    tokenizer: Any, family: Family, *, task: Task, context: str, first: str, second: str, max_length: int
) -> RewardInput:
    """Return the comparison of `first` (A) and `second` (B), at most `max_length` tokens long.

    A decoder-only model's text ends with the cue, up to where the label's token begins (see `label_ids`); a T5's
    with EOS. Raises ResponsesTooLongError when the responses alone do not fit.
    """
    pieces, counts = zip(*(escape_markers(defuse(tokenizer, text)) for text in (context, first, second)), strict=True)
    tail = _cue(tokenizer)[0] if family == "causal" else ""
    encoded = _encode(tokenizer, reward_text(task, *pieces) + tail, return_offsets_mapping=True)
    around = (list(_opening(tokenizer)), []) if family == "causal" else ([], [int(tokenizer.eos_token_id)])
    # A token belongs to where it starts: added tokens may take the space after them along.
    starts = [start for start, _ in encoded["offset_mapping"]]
    head = len("[CONTEXT]")
    before, after = (bisect_left(starts, limit) for limit in (head, head + 1 + len(pieces[0])))
    ids = encoded["input_ids"]
    excess = len(ids) + len(around[0]) + len(around[1]) - max_length
    if excess > after - before:
        message = (
            f"two responses take {len(ids) - (after - before)} tokens without any context, more than reward.max_length = "
            f"{max_length}; raise reward.max_length or lower data.max_response_tokens"
        )
        raise ResponsesTooLongError(message)
    kept = [*ids[:before], *ids[before + max(excess, 0) :]]
    return RewardInput([*around[0], *kept, *around[1]], truncated=excess > 0, escaped=sum(counts))


def label_ids(tokenizer: Any, family: Family) -> tuple[int, int]:
    """Return the ids of the labels "A" and "B" where they are generated: single tokens, and distinct.

    Decoder-only: the token that follows the cue. T5: the decoder's first token. Raises UserError otherwise.
    """
    if family == "causal":
        return _cue(tokenizer)[1:]
    found = [data_ids(tokenizer, label) for label in ("A", "B")]
    if any(len(ids) != 1 for ids in found) or found[0] == found[1] or found[0][0] == tokenizer.unk_token_id:
        raise _no_labels(found)
    return found[0][0], found[1][0]


@lru_cache(maxsize=8)
def _cue(tokenizer: Any) -> tuple[str, int, int]:
    """Return the cue that the input ends with and the ids of the labels that continue it.

    The text is always "…[PREFERRED] A". Where a tokenizer joins the space with the label (as byte-pair
    tokenizers do) the input ends before that space, so that input and label together are the text's own tokens.
    """
    whole = [data_ids(tokenizer, f"x{PREFERRED_CUE}{label}") for label in ("A", "B")]
    for cue in (PREFERRED_CUE, PREFERRED_CUE.rstrip(" ")):
        given = data_ids(tokenizer, f"x{cue}")
        labels = [ids[len(given) :] for ids in whole if ids[: len(given)] == given]
        known = all(len(ids) == 1 and ids[0] != tokenizer.unk_token_id for ids in labels)
        if len(labels) == len(whole) and known and labels[0] != labels[1]:
            return cue, labels[0][0], labels[1][0]
    raise _no_labels(whole)


def _no_labels(found: Sequence[list[int]]) -> UserError:
    message = (
        f"a reward model answers with one token, A or B; this tokenizer writes them as {found[0][-3:]} and {found[1][-3:]}. "
        f"Both must be single, known and distinct: choose another base model for the reward model"
    )
    return UserError(message)
