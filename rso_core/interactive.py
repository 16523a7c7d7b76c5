"""Answer one prompt for somebody who waits: the playground's work, told while it is written.

Not a stage: nothing is kept, so there is no artifact and no fingerprint. The models of the last few questions stay
loaded between answers, as those of a stage do between its shards.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rso_core.artifacts import ArtifactStore
from rso_core.errors import UserError
from rso_core.protocol import Event, Partial, Result, StageSpec
from rso_core.templates import PromptTemplate
from rso_core.vocabulary import Message, Task

if TYPE_CHECKING:
    from rso_core.models import LanguageModel
    from rso_core.stages import ModelCache

ANSWER = "answer"
MODELS = 3  # kept loaded: as many as are compared
TELL_SECONDS = 0.2
LONGEST_ANSWER = 1024  # tokens
_UNFINISHED = "\ufffd"  # what a character becomes of which some bytes are still to come


class Turn(BaseModel):
    """One turn of a conversation, as `rso_core.vocabulary.Message`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Asked(BaseModel):
    """What a model is asked, with every sampling setting explicit; `top_k` 0 is all tokens, 1 is greedy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: list[Turn] = Field(min_length=1)
    task: Task
    prompt_template: PromptTemplate = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_prompt_tokens: int = Field(ge=1)
    temperature: float = Field(gt=0, le=10)
    top_k: int = Field(ge=0)
    max_tokens: int = Field(ge=1, le=LONGEST_ANSWER)
    seed: int = Field(ge=0, lt=1 << 63)


def spec_of(asked: Asked, digest: str) -> StageSpec:
    """Return what a runner is told. All answers share one fingerprint, so that models stay loaded between them."""
    return StageSpec(kind=ANSWER, fingerprint=ANSWER, config=asked.model_dump(mode="json"), inputs={"model": digest})


def answer(spec: StageSpec, store: ArtifactStore, emit: Callable[[Event], None], models: "ModelCache") -> Result:
    """Answer, telling what there is at most five times a second. The result's digest is empty, its summary the answer.

    When memory runs out the other models are dropped and it is tried once more.
    """
    from rso_core.memory import is_out_of_memory
    from rso_core.models import set_threads_and_seed

    asked = Asked.model_validate(spec.config)
    set_threads_and_seed(asked.seed % (1 << 32))
    try:
        summary = _answer(asked, _load(spec, store, models, asked), emit)
    except Exception as error:
        if not is_out_of_memory(error) or not models.forget():
            raise
    else:
        return Result(digest="", summary=summary)
    return Result(digest="", summary=_answer(asked, _load(spec, store, models, asked), emit))


def _load(spec: StageSpec, store: ArtifactStore, models: "ModelCache", asked: Asked) -> "LanguageModel":
    digest = spec.inputs["model"]
    return models.load(store.path(digest) / "model", digest, asked.dtype)


def _answer(asked: Asked, lm: "LanguageModel", emit: Callable[[Event], None]) -> dict[str, Any]:
    from rso_core.generation import generate_one
    from rso_core.stages_sampling import decode

    prompt = _prompt(asked, lm)
    telling = _Telling(lambda ids: decode(lm.tokenizer, ids), emit)
    response = generate_one(
        lm,
        prompt.ids,
        temperature=asked.temperature,
        top_k=asked.top_k,
        max_new_tokens=asked.max_tokens,
        seed=asked.seed,
        on_token=telling.add,
    )
    return {
        "text": decode(lm.tokenizer, response.token_ids),
        "tokens": len(response.token_ids),
        "truncated": response.truncated,
        "prompt_tokens": len(prompt.ids),
        "prompt_truncated": prompt.truncated,
    }


def _prompt(asked: Asked, lm: "LanguageModel") -> Any:
    """Return the prompt's tokens, cut from the left to what the model reads beside its answer."""
    from rso_core.templates import policy_prompt_ids

    room = asked.max_prompt_tokens
    if lm.context_limit is not None:
        room = min(room, lm.context_limit - asked.max_tokens)
    if room < 1:
        message = (
            f"the model reads and writes {lm.context_limit} tokens together, and an answer of up to {asked.max_tokens} leaves "
            f"no room for the prompt; ask for a shorter answer"
        )
        raise UserError(message)
    return policy_prompt_ids(
        lm.tokenizer,
        lm.family,
        [Message(role=turn.role, content=turn.content) for turn in asked.messages],
        task=asked.task,
        prompt_template=asked.prompt_template,
        max_tokens=room,
    )


class _Telling:
    """Tells the text of the tokens so far, not more often than somebody can see it."""

    def __init__(self, text_of: Callable[[list[int]], str], emit: Callable[[Event], None]) -> None:
        self._text_of, self._emit = text_of, emit
        self._ids: list[int] = []
        self._told = 0.0

    def add(self, token: int) -> None:
        """Take the next token."""
        self._ids.append(token)
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self._emit(Partial(text=self._text_of(self._ids).rstrip(_UNFINISHED), tokens=len(self._ids)))
