"""What a message makes a worker do. No algorithm and no SQL here."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from django.db import DatabaseError, InterfaceError

from webapp.human_eval import abandoned_uploads, daily_check
from webapp.playground import answering, limits, tidying
from webapp.playground.answering import AnswerClaim
from webapp.runs import jobs, queue, reaper, unused_artifacts
from webapp.studies import launching
from workers.answers import answer
from workers.app import app, is_leaving
from workers.runner_process import WarmRunner
from workers.supervision import supervise

logger = logging.getLogger(__name__)


# A runner takes seconds to load its libraries, and what a finished stage leads to is often ready a moment later.
_LINGER_SECONDS = 3.0
_LINGER_AFTER_ANSWER_SECONDS = 30.0  # whoever has read three answers asks again; stages are served meanwhile
_LOOK_SECONDS = 0.25

Work = jobs.Claim | AnswerClaim


def execute_stage(task: Any, stage_id: int) -> None:
    """Do what is due of a stage, then of the other stages of this worker's queues, until nothing has been for a while."""
    _do(_claims(stage_id, worker=task.request.hostname))


def answer_questions(task: Any) -> None:
    """Answer in the playground until nobody has waited there for a while; do stages that become due meanwhile."""
    if tidying.is_waited_for():
        wait = limits.CPU_PATIENCE.total_seconds() + 1
        _do(_claims(None, worker=task.request.hostname, wait_seconds=wait))


def _do(claims: Iterator[Work]) -> None:
    with WarmRunner() as runner:
        try:
            for claim in claims:
                if isinstance(claim, AnswerClaim):
                    answer(claim, runner, is_leaving)
                else:
                    supervise(claim, runner, is_leaving)
        except (DatabaseError, InterfaceError) as error:
            # What was claimed comes back when its lease ends; what was not is still there.
            logger.warning("the database went away while there was work: %s", error)


def _claims(stage_id: int | None, *, worker: str, wait_seconds: float = 0.0) -> Iterator[Work]:
    """Yield what is claimed: answers somebody waits for first, then the stage that was rung for, then other stages.

    Ends when nothing has been due for a while, or when the worker is asked to leave.
    """
    queues = sorted(set(app.amqp.queues.consume_from) - {queue.INTERACTIVE})
    stage = stage_id
    # Nothing was due for whoever was rung for in vain: no reason to linger.
    give_up: float | None = time.monotonic() + wait_seconds if wait_seconds else None
    while not is_leaving():
        if (asked := _asked(queues, worker)) is not None:
            yield asked
            give_up = time.monotonic() + _LINGER_AFTER_ANSWER_SECONDS
        elif stage is not None and (claim := jobs.claim(stage_id=stage, worker=worker)) is not None:
            yield claim
            give_up = max(give_up or 0.0, time.monotonic() + _LINGER_SECONDS)
        elif give_up is None or time.monotonic() > give_up:
            return
        else:
            time.sleep(_LOOK_SECONDS)
        if give_up is not None:
            stage = jobs.due_stage(queues)


def _asked(queues: list[str], worker: str) -> AnswerClaim | None:
    """Return the answer that this worker is to give now, if it serves the playground and there is one."""
    if queue.INTERACTIVE not in app.amqp.queues.consume_from:
        return None
    return answering.claim(worker=worker, has_gpu_queue="gpu" in queues)


def reap() -> None:
    """Put right what was left behind."""
    reaper.reap()
    launching.launch_waiting()
    tidying.tidy()
    if tidying.is_waited_for():
        queue.ring_interactive()


def forget_uploads() -> None:
    """Remove uploaded files that were never used, and the files of what was deleted."""
    abandoned_uploads.forget_abandoned_uploads()
    unused_artifacts.remove_unused(abandoned_uploads.is_referred_to)


def check_campaigns() -> None:
    """Look once a day whether the slots and answers of every campaign fit."""
    daily_check.check_when_due()


# Called, not written as decorators, which would take the functions' types away.
app.task(name=queue.EXECUTE_STAGE, bind=True)(execute_stage)
app.task(name=queue.ANSWER_QUESTIONS, bind=True)(answer_questions)
app.task(name=queue.REAP)(reap)
app.task(name=queue.FORGET_UPLOADS)(forget_uploads)
app.task(name=queue.CHECK_CAMPAIGNS)(check_campaigns)
