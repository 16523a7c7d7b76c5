"""What workers do with questions: claim an answer, tell what there is of it, finish, fail, give back. All fenced."""

from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models.functions import Now

from rso_core.errors import RsoError
from rso_core.interactive import Asked, spec_of
from rso_core.protocol import Partial, StageSpec
from webapp.playground import limits, tidying
from webapp.playground.models import Generation
from webapp.runs.text import storable

_Status = Generation.Status

# The oldest question first, its answers from left to right, so that in a blind comparison the order of their coming
# says nothing. `patience` keeps CPU workers from taking what a GPU worker would take in a moment.
_CLAIM = """
UPDATE playground_generation
SET status = 'running', attempt = attempt + 1, worker = %(worker)s, started = statement_timestamp(),
    lease_expires = statement_timestamp() + %(lease)s, text = '', tokens = 0
WHERE id = (
    SELECT generation.id FROM playground_generation AS generation
    JOIN playground_question AS question ON question.id = generation.question_id
    WHERE generation.status = 'waiting' AND question.watched >= statement_timestamp() - %(unwatched)s
      AND generation.created <= statement_timestamp() - %(patience)s
    ORDER BY generation.question_id, generation.place
    LIMIT 1
    FOR UPDATE OF generation SKIP LOCKED
)
RETURNING id, attempt
"""


class AnswerLost(RsoError):  # noqa: N818 - what happened, not a mistake
    """The answer is no longer this worker's: it was cancelled, nobody watches it, or it took too long."""


@dataclass(frozen=True)
class AnswerClaim:
    """An answer under one attempt: the fence of every later write, and what the runner is to do."""

    generation_id: int
    attempt: int
    spec: StageSpec


def claim(*, worker: str, has_gpu_queue: bool) -> AnswerClaim | None:
    """Take the answer that is due first, or return None. Two workers never get the same one."""
    zero = limits.CPU_PATIENCE * 0
    values: dict[str, Any] = {
        "worker": worker[:120],
        "lease": limits.LEASE,
        "unwatched": limits.UNWATCHED,
        "patience": zero if has_gpu_queue else limits.CPU_PATIENCE,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_CLAIM, values)
        row = cursor.fetchone()
    if row is None:
        return None
    generation = Generation.objects.get(pk=row[0])
    return AnswerClaim(row[0], row[1], spec_of(Asked.model_validate(generation.asked), generation.digest))


def tell(claim: AnswerClaim, partial: Partial | None) -> None:
    """Extend the lease and show what there is of the answer. Raises AnswerLost."""
    tidying.tidy()
    text = {} if partial is None else {"text": storable(partial.text), "tokens": partial.tokens}
    _fenced(claim, lease_expires=Now() + limits.LEASE, **text)


def finish(claim: AnswerClaim, summary: dict[str, Any]) -> None:
    """Store the whole answer. Raises AnswerLost."""
    values = {name: summary[name] for name in ("tokens", "truncated", "prompt_truncated")}
    text = storable(summary["text"])
    _fenced(claim, status=_Status.DONE, text=text, lease_expires=None, finished=Now(), message="", **values)


def fail(claim: AnswerClaim, message: str) -> None:
    """Store why there is no answer. Raises AnswerLost."""
    _fenced(claim, status=_Status.FAILED, message=storable(message), lease_expires=None, finished=Now())


def give_back(claim: AnswerClaim) -> None:
    """Let another worker answer, because this one is asked to leave; the attempt does not count."""
    mine = Generation.objects.filter(pk=claim.generation_id, attempt=claim.attempt, status=_Status.RUNNING)
    tidying.give_back(mine, attempt=claim.attempt - 1)


def _fenced(claim: AnswerClaim, **values: Any) -> None:
    """Update the claimed answer if it is still this attempt's."""
    mine = Generation.objects.filter(pk=claim.generation_id, attempt=claim.attempt, status=_Status.RUNNING)
    if not mine.update(**values):
        message = f"attempt {claim.attempt} at answer {claim.generation_id} is no longer wanted"
        raise AnswerLost(message)
