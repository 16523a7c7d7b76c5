"""What a message makes a worker do. No algorithm and no SQL here."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from django.db import DatabaseError, InterfaceError

from webapp.runs import jobs, queue, reaper
from workers.app import app, is_leaving
from workers.runner_process import WarmRunner
from workers.supervision import supervise

logger = logging.getLogger(__name__)


# A runner takes seconds to load its libraries, and what a finished stage leads to is often ready a moment later.
_LINGER_SECONDS = 3.0
_LOOK_SECONDS = 0.25


def execute_stage(task: Any, stage_id: int) -> None:
    """Do what is due of a stage, then of the other stages of this worker's queues, until nothing has been for a while."""
    with WarmRunner() as runner:
        try:
            for claim in _claims(stage_id, worker=task.request.hostname):
                supervise(claim, runner, is_leaving)
        except (DatabaseError, InterfaceError) as error:
            # What was claimed comes back when its lease ends; what was not is still there.
            logger.warning("the database went away while stage %s was worked on: %s", stage_id, error)


def _claims(stage_id: int, *, worker: str) -> Iterator[jobs.Claim]:
    """Yield shards as they are claimed, the stage that was rung for first. Ends when the worker is asked to leave."""
    queues = sorted(app.amqp.queues.consume_from)
    stage: int | None = stage_id
    give_up: float | None = None  # nothing was due for whoever was rung for in vain: no reason to linger
    while not is_leaving():
        if stage is not None and (claim := jobs.claim(stage_id=stage, worker=worker)) is not None:
            yield claim
            give_up = time.monotonic() + _LINGER_SECONDS
        elif give_up is None or time.monotonic() > give_up:
            return
        else:
            time.sleep(_LOOK_SECONDS)
        if give_up is not None:
            stage = jobs.due_stage(queues)


def reap() -> None:
    """Put right what was left behind."""
    reaper.reap()


# Called, not written as decorators, which would take the functions' types away.
app.task(name=queue.EXECUTE_STAGE, bind=True)(execute_stage)
app.task(name=queue.REAP)(reap)
