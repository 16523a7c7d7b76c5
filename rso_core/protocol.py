"""What a supervisor and a runner say to each other: one JSON object a line.

Supervisor → runner on standard input: a `StageSpec` a line; end of input means "finish and leave".
Runner → supervisor on standard output: `Event`s; each spec is answered by exactly one `Result` or `Failure`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageSpec(_Message):
    """One piece of work: a stage, or one shard of it."""

    kind: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str] = Field(description="Input name to artifact digest.")
    shard_index: int = 0
    shard_count: int = 1
    attempt: int = 1


class Progress(_Message):
    """How far the work is; `unit` names what is counted (steps, prompts, pairs …).

    `resumed` of what is done was done by an earlier attempt: it says nothing about how fast this one is.
    """

    event: Literal["progress"] = "progress"
    done: int
    total: int
    unit: str
    tokens_per_second: float | None = None
    resumed: int = 0


class Metrics(_Message):
    """Values at a step of a training or a checkpoint: one point of each curve."""

    event: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, float]


class Log(_Message):
    """A line for people."""

    event: Literal["log"] = "log"
    level: Literal["info", "warning"] = "info"
    message: str


class Partial(_Message):
    """The beginning of an answer that somebody waits for; each one replaces the one before."""

    event: Literal["partial"] = "partial"
    text: str
    tokens: int


class Result(_Message):
    """The work is done and its artifact committed (an answer in the playground has none). `summary` is JSON; numbers of shards add up by name."""

    event: Literal["result"] = "result"
    digest: str
    summary: dict[str, Any]


class Failure(_Message):
    """The work failed. `user` and `out_of_memory` are never retried; `transient` and `internal` are, bounded."""

    event: Literal["failure"] = "failure"
    reason: Literal["user", "out_of_memory", "transient", "internal"]
    message: str
    traceback: str = ""


Event = Progress | Metrics | Log | Partial | Result | Failure
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def add_summaries(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add the numbers of shards' summaries by name, inside nested mappings too; other values are the first's."""
    total: dict[str, Any] = {}
    for summary in summaries:
        for name, value in summary.items():
            known = total.get(name)
            if isinstance(value, Mapping):
                total[name] = add_summaries([known or {}, value])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                total[name] = (known or 0) + value
            else:
                total.setdefault(name, value)
    return total
