"""What people do in the playground before they rate: ask, watch, cancel. Every function takes whose question it is."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Avg, F, Q
from django.db.models.functions import Now
from pydantic import ValidationError

from rso_core.errors import UserError
from rso_core.interactive import Asked
from rso_core.vocabulary import Message, conversation_root, prompt_id, transcript
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.playground import limits, tidying
from webapp.playground.models import LIVE, Generation, Question
from webapp.playground.policies import Policy
from webapp.runs import queue
from webapp.runs.transitions import living_slots

_MEASURED = 20  # finished answers that the expected wait is learned from


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, the same for every model. `seed` None draws one."""

    temperature: float = 0.7
    top_k: int = 40
    max_tokens: int = 128
    seed: int | None = None


@dataclass(frozen=True)
class Watched:
    """A question as its page shows it: answers from left to right, how many are before it, seconds it may wait."""

    question: Question
    answers: list[Generation]
    ahead: int
    seconds: float | None

    @property
    def is_over(self) -> bool:
        """Return whether no answer will change any more."""
        return not any(answer.status in LIVE for answer in self.answers)

    @property
    def is_rated(self) -> bool:
        """Return whether a judgement is kept; then the models have names also in a blind comparison."""
        return self.question.item_id is not None


def ask(
    owner: User, messages: Sequence[Message], policies: Sequence[Policy], *, is_blind: bool, sampling: Sampling
) -> Question:
    """Ask each of these models; the answers are placed by lot when it is blind. Raises UserError on a bound."""
    prompt = _prompt_of(messages)
    seed = secrets.randbelow(1 << 31) if sampling.seed is None else sampling.seed
    drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k, "max_tokens": sampling.max_tokens}
    settings = {**drawn, "seed": seed}
    asked = [_asked({**policy.limits, **settings, "messages": list(messages)}) for policy in policies]
    places = list(range(len(policies)))
    if is_blind:
        secrets.SystemRandom().shuffle(places)
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=owner.pk)  # two tabs are counted one after the other
        _refuse_too_many(owner)
        question = Question.objects.create(
            owner=owner,
            prompt=prompt,
            messages=list(messages),
            prompt_id=prompt_id(prompt),
            root=conversation_root(messages),
            is_blind=is_blind,
            settings=settings,
            watched=Now(),
        )
        Generation.objects.bulk_create(
            Generation(
                question=question,
                index=index,
                place=places[index],
                label=policy.label,
                kind=policy.kind,
                run=policy.run,
                stage_id=policy.stage_id,
                digest=policy.digest,
                asked=asked[index].model_dump(mode="json"),
            )
            for index, policy in enumerate(policies)
        )
        record(owner, "asked", question, models=[policy.label for policy in policies])
        queue.ring_interactive(times=max(1, min(len(policies), living_slots("gpu")) + living_slots("cpu")))
    question.refresh_from_db()
    return question


def _prompt_of(messages: Sequence[Message]) -> str:
    prompt = transcript(messages)
    if not prompt.strip():
        message = "write a prompt, or take one from a dataset"
        raise UserError(message)
    if len(prompt) > limits.LONGEST_PROMPT:
        message = (
            f"a prompt may have {limits.LONGEST_PROMPT:,} characters here; this one has {len(prompt):,}. Shorten it"
        )
        raise UserError(message)
    return prompt


def _asked(values: dict[str, Any]) -> Asked:
    try:
        asked = Asked.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{first['loc'][0] if first['loc'] else 'the question'}: {first['msg']}, got {first['input']!r}; correct it and ask again"
        raise UserError(message) from error
    if asked.max_tokens > limits.LONGEST_ANSWER:
        message = f"an answer may have up to {limits.LONGEST_ANSWER} tokens here; {asked.max_tokens} were asked for"
        raise UserError(message)
    return asked


def _refuse_too_many(owner: User) -> None:
    tidying.tidy()
    live = Question.objects.filter(owner=owner, generations__status__in=LIVE).distinct().count()
    if live >= limits.LIVE_QUESTIONS:
        message = f"{live} of your questions are being answered; wait for one or cancel it, then ask again"
        raise UserError(message)


def watch(question_id: int, *, owner: User) -> Watched | None:
    """Say that the page is open, and return the question as it is now; None when it is not this person's."""
    if not Question.objects.filter(pk=question_id, owner=owner).update(watched=Now()):
        return None
    tidying.tidy()
    question = Question.objects.get(pk=question_id)
    answers = list(question.generations.order_by("place"))
    ahead = _ahead(answers)
    return Watched(question, answers, ahead, _seconds(ahead, answers))


def last_question(owner: User) -> int | None:
    """Return this person's newest question, to go on with when the page is opened again."""
    return Question.objects.filter(owner=owner).values_list("pk", flat=True).order_by("-pk").first()


def cancel(question_id: int, *, owner: User) -> None:
    """Stop what is not answered yet. Workers notice within a second."""
    live = Generation.objects.filter(question__pk=question_id, question__owner=owner, status__in=LIVE)
    tidying.stop(live, "you stopped it")


def _ahead(answers: Sequence[Generation]) -> int:
    """Return how many other people's (or questions') answers come before the first one that waits here."""
    waiting = [answer for answer in answers if answer.status == Generation.Status.WAITING]
    if not waiting or any(answer.status == Generation.Status.RUNNING for answer in answers):
        return 0
    before = Q(status=Generation.Status.RUNNING) | Q(question__lt=waiting[0].question_id)
    others = Generation.objects.filter(before, status__in=LIVE).exclude(question=waiting[0].question_id)
    return others.count()


def _seconds(ahead: int, answers: Sequence[Generation]) -> float | None:
    """Return the expected wait for the first answer, from what the last answers took; None when none is known."""
    newest = Generation.objects.filter(status=Generation.Status.DONE).order_by("-finished").values("pk")[:_MEASURED]
    took = Generation.objects.filter(pk__in=newest).aggregate(mean=Avg(F("finished") - F("started")))["mean"]
    if took is None or not any(answer.status == Generation.Status.WAITING for answer in answers):
        return None
    servers = max(1, living_slots("gpu") or living_slots("cpu"))
    return float(took.total_seconds()) * -(-ahead // servers)


def workers_are_there() -> bool:
    """Return whether any worker that could answer has been seen lately."""
    return bool(living_slots("gpu") or living_slots("cpu"))
