"""What a message makes a worker do. No algorithm and no SQL here."""

import logging
from typing import Any

from django.db import DatabaseError, InterfaceError

from webapp.runs import jobs, queue, reaper
from workers.app import app, is_leaving
from workers.runner_process import WarmRunner
from workers.supervision import supervise

logger = logging.getLogger(__name__)


def execute_stage(task: Any, stage_id: int) -> None:
    """Do what is due of a stage, shard after shard, until nothing is or the worker is asked to leave."""
    with WarmRunner() as runner:
        try:
            while not is_leaving() and (claim := jobs.claim(stage_id=stage_id, worker=task.request.hostname)):
                supervise(claim, runner, is_leaving)
        except (DatabaseError, InterfaceError) as error:
            # What was claimed comes back when its lease ends; what was not is still there.
            logger.warning("the database went away while stage %s was worked on: %s", stage_id, error)


def reap() -> None:
    """Put right what was left behind."""
    reaper.reap()


# Called, not written as decorators, which would take the functions' types away.
app.task(name=queue.EXECUTE_STAGE, bind=True)(execute_stage)
app.task(name=queue.REAP)(reap)
