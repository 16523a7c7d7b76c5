"""Put comparisons to a judge: in both orders, several samples each, each question paid for once.

A judge is anything that answers text with text: a model in this process, or an OpenAI-compatible endpoint.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

from rso_core.answer_cache import Answer, AnswerCache
from rso_core.auto_sxs import FewShot, Sample, Verdict, judge_prompt, parse_choice, same_texts, verdict
from rso_core.errors import UserError
from rso_core.vocabulary import canonical_json

if TYPE_CHECKING:
    from rso_core.endpoint import Endpoint
    from rso_core.models import LanguageModel

TOGETHER = 16  # prompts of a local judge that are read in one call


@dataclass(frozen=True)
class Question:
    """What a judge is asked: a text, how many answers, and the seed of their randomness."""

    prompt: str
    samples: int
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How a judge's answers are sampled; `samples` in all, half of them in each order."""

    samples: int
    temperature: float
    top_k: int
    max_tokens: int


class Judge(Protocol):
    """Answers questions in order, each with as many samples as it asks for."""

    def answer(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[list[Answer]]:
        """Yield the answers to each question."""

    def spent(self, prompt_tokens: int, completion_tokens: int) -> dict[str, float]:
        """Return what tokens cost and what trouble there was, for a summary."""


@dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt; `first` is the system whose verdict it is."""

    context: str
    first: str
    second: str


@dataclass
class Judged:
    """The verdict of each comparison with the answers behind it, and what they took.

    `cached` counts the answers that earlier work had asked for; tokens are those of all answers.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    answers: list[list[dict[str, Any]]] = field(default_factory=list)
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut_off: int = 0  # answers that hit the limit of tokens
    questions: int = 0
    single_answers: int = 0  # questions of which all answers are the same text
    spent: dict[str, float] = field(default_factory=dict)

    def counts(self) -> dict[str, float]:
        """Return what was counted, for a summary."""
        return {
            "answers_cached": self.cached,
            "answers_cut_off": self.cut_off,
            "single_answer_questions": self.single_answers,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            **self.spent,
        }


def judge_comparisons(
    judge: Judge,
    comparisons: Sequence[Comparison],
    *,
    few_shot: FewShot,
    sampling: Sampling,
    seed: int,
    cache: AnswerCache,
    on_progress: Callable[[int], None],
) -> Judged:
    """Return the verdict on each comparison, in order. Equal texts are an exact tie that is not asked about."""
    asked = [None if c.first == c.second else _questions(c, few_shot, sampling, seed) for c in comparisons]
    questions = [question for both in asked if both for question in both]
    answers = _answers(judge, questions, sampling, cache)
    judged = Judged()
    for both in asked:
        if both is None:
            judged.verdicts.append(same_texts())
            judged.answers.append([])
        else:
            _decide(judged, [next(answers), next(answers)])
        on_progress(1)
    judged.spent = judge.spent(judged.prompt_tokens, judged.completion_tokens)
    return judged


def _questions(comparison: Comparison, few_shot: FewShot, sampling: Sampling, seed: int) -> tuple[Question, Question]:
    """Return the question in both orders. Seeds follow from the text, so that equal questions have equal answers."""
    orders = ((comparison.first, comparison.second), (comparison.second, comparison.first))
    prompts = [judge_prompt(few_shot, comparison.context, a, b) for a, b in orders]
    first, second = (Question(prompt, sampling.samples // 2, _seed_of(seed, prompt)) for prompt in prompts)
    return first, second


def _seed_of(seed: int, prompt: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:judge:{prompt}".encode()).digest()[:8]) >> 34  # 30 bits


def _answers(
    judge: Judge, questions: Sequence[Question], sampling: Sampling, cache: AnswerCache
) -> Iterator[tuple[list[Answer], bool]]:
    """Yield the answers to each question and whether they were known, asking only for those that are not."""
    keys = [_key(question, sampling) for question in questions]
    new = {key: q for key, q in zip(keys, questions, strict=True) if cache.get(key) is None}
    coming = zip(new, judge.answer(list(new.values()), sampling), strict=True)
    fresh: set[str] = set()
    for key in keys:
        while cache.get(key) is None:
            arrived, answers = next(coming)
            cache.put(arrived, answers)
            fresh.add(arrived)
        found = cache.get(key)
        yield found or [], key not in fresh


def _key(question: Question, sampling: Sampling) -> str:
    asked = [
        question.prompt,
        question.samples,
        question.seed,
        sampling.temperature,
        sampling.top_k,
        sampling.max_tokens,
    ]
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()


def _decide(judged: Judged, both: Sequence[tuple[list[Answer], bool]]) -> None:
    samples, shown = [], []
    for flipped, (answers, known) in zip((False, True), both, strict=True):
        judged.cached += known * len(answers)
        judged.questions += 1
        judged.single_answers += len({answer.text for answer in answers}) == 1
        for answer in answers:
            choice = parse_choice(answer.text)
            samples.append(Sample(choice, flipped))
            shown.append({"text": answer.text, "choice": choice, "flipped": flipped})
            judged.prompt_tokens += answer.prompt_tokens
            judged.completion_tokens += answer.completion_tokens
            judged.cut_off += answer.truncated
    judged.verdicts.append(verdict(samples))
    judged.answers.append(shown)


class ModelJudge:
    """A model in this process. With a chat template the question is a user's message, else a text to go on with."""

    def __init__(self, lm: "LanguageModel", *, batch_size: int) -> None:
        self._lm, self._batch_size = lm, batch_size

    def answer(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[list[Answer]]:
        """Yield the answers to each question. Raises UserError when one does not fit the model's context."""
        from rso_core.generation import responses

        for start in range(0, len(questions), TOGETHER):
            block = questions[start : start + TOGETHER]
            prompts = [self._ids(question.prompt, sampling.max_tokens) for question in block]
            found = responses(
                self._lm,
                prompts,
                num_responses=block[0].samples,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                max_new_tokens=sampling.max_tokens,
                batch_size=self._batch_size,
                seeds=[question.seed for question in block],
            )
            for ids, sampled in zip(prompts, found, strict=True):
                yield [self._answer(len(ids), response) for response in sampled]

    def spent(self, prompt_tokens: int, completion_tokens: int) -> dict[str, float]:  # noqa: ARG002 - it costs nothing
        """Return nothing: tokens are counted already."""
        return {}

    def _ids(self, prompt: str, max_tokens: int) -> list[int]:
        from rso_core.templates import free_prompt_ids

        ids = free_prompt_ids(self._lm.tokenizer, self._lm.family, prompt)
        limit = self._lm.context_limit
        if limit is not None and len(ids) + max_tokens > limit:
            message = (
                f"a question to the judge of {len(ids)} tokens with an answer of up to {max_tokens} exceeds the judge's context "
                f"of {limit} tokens; shorten the examples of judge.few_shot, lower judge.max_tokens, or take another judge"
            )
            raise UserError(message)
        return ids

    def _answer(self, prompt_tokens: int, response: Any) -> Answer:
        text = self._lm.tokenizer.decode(
            list(response.token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Answer(text, response.truncated, prompt_tokens, len(response.token_ids))


class EndpointJudge:
    """A model behind an OpenAI-compatible endpoint; each question is a user's message, each sample a request."""

    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint

    def answer(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[list[Answer]]:
        """Yield the answers to each question. Raises UserError and TransientError as `Endpoint.ask` does."""
        from rso_core.endpoint import Request

        requests = [
            Request(
                ({"role": "user", "content": question.prompt},),
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=question.seed + number,
                top_k=sampling.top_k,
            )
            for question in questions
            for number in range(question.samples)
        ]
        answers = chain.from_iterable(self._endpoint.ask(requests))
        for question in questions:
            yield list(islice(answers, question.samples))

    def spent(self, prompt_tokens: int, completion_tokens: int) -> dict[str, float]:
        """Return the cost by the endpoint's prices, and how many requests were tried again."""
        return {
            "cost": self._endpoint.settings.cost(prompt_tokens, completion_tokens),
            "retries": self._endpoint.retries,
        }
