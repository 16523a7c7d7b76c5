"""What the pages of a run show: state, graph, results, log, lineage."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from webapp.runs.estimates import measured_speeds
from webapp.runs.models import LIVE, Attempt, LogLine, Run, RunStage, Stage, Status
from webapp.runs.progress import RunProgress, StageProgress, run_progress, stage_title
from webapp.runs.run_graph import Graph, edges_of, run_graph
from webapp.runs.run_results import Results, System, run_results, system_of

_LOG_LINES = 200
_ATTEMPTS = 100

# What to do about a stage that ended badly, besides what its message says.
_ADVICE = {
    Status.OUT_OF_MEMORY: "Lower the micro batch size of the training (the step stays the same), the batch size of sampling, or the longest prompt and response; or give the worker a device with more memory. Then clone the run with these settings, or resume it on the larger device.",
    Status.FAILED: "If the message names a setting, clone the run and change it. If it was a passing trouble, resume: what is finished and every checkpoint is kept.",
    Status.STOPPED: "Resume to go on from the last checkpoint.",
}


@dataclass(frozen=True)
class Trouble:
    """Why a run goes no further, and what to do about it."""

    stage: StageProgress | None
    message: str
    advice: str
    traceback: str


@dataclass(frozen=True)
class RunPage:
    """Everything in the polled part of the run page."""

    run: Run
    progress: RunProgress
    graph: Graph
    system: System
    results: Results
    log: list[LogLine]
    trouble: Trouble | None

    @property
    def is_live(self) -> bool:
        """Return whether the run goes on by itself."""
        return self.run.status in LIVE


def run_page(run: Run) -> RunPage:
    """Return what the run page shows, in a fixed number of queries."""
    # Speeds say how long what is not done will take; they cost more than all other queries together.
    speeds = {} if run.status == Status.DONE else measured_speeds(run.config["model"]["base"])
    progress = run_progress(run, speeds)
    graph = run_graph(progress, edges_of(run.pk))
    return RunPage(
        run, progress, graph, system_of(run.config), run_results(run), _log(progress), _trouble(run, progress)
    )


def _log(progress: RunProgress) -> list[LogLine]:
    """Return the last lines of the log, oldest first, each with the title of its stage and the time of day.

    The filter `date` would take a third of the page's time for the lines alone.
    """
    titles = {stage.stage_id: stage.title for stage in progress.stages}
    lines = list(LogLine.objects.filter(stage__in=titles).order_by("-id")[:_LOG_LINES])
    for line in lines:
        at = timezone.localtime(line.at)
        line.title, line.iso, line.clock = titles[line.stage_id], at.isoformat(), f"{at:%H:%M:%S}"  # type: ignore[attr-defined]
    return lines[::-1]


def _trouble(run: Run, progress: RunProgress) -> Trouble | None:
    if run.status == Status.STOPPED:
        return Trouble(
            None, "The run was stopped. Finished stages and checkpoints are kept.", _ADVICE[Status.STOPPED], ""
        )
    if run.status not in {Status.FAILED, Status.OUT_OF_MEMORY}:
        return None
    stage = next((stage for stage in progress.stages if stage.status == run.status), None)
    traceback = Stage.objects.get(pk=stage.stage_id).traceback if stage else ""
    return Trouble(stage, run.message, _ADVICE[Status(run.status)], traceback)


@dataclass(frozen=True)
class StageLineage:
    """Where a stage's output comes from, and how often it was tried."""

    key: str
    title: str
    stage: Stage
    reused: bool
    inputs: list[tuple[str, str, str]]  # name, what it is, digest
    outcomes: list[tuple[str, int]]
    attempts: list[Attempt] = field(default_factory=list)


def lineage(run: Run) -> list[StageLineage]:
    """Return the lineage of every stage of a run, in a fixed number of queries."""
    items = list(run.run_stages.select_related("stage").prefetch_related("stage__inputs__upstream").order_by("order"))
    attempts = _attempts([item.stage_id for item in items])
    return [_stage_lineage(item, attempts.get(item.stage_id, [])) for item in items]


def _attempts(stages: list[int]) -> dict[int, list[Attempt]]:
    found: dict[int, list[Attempt]] = {}
    rows = Attempt.objects.filter(shard__stage__in=stages).select_related("shard").order_by("-id")
    for attempt in rows[: _ATTEMPTS * max(1, len(stages))]:
        found.setdefault(attempt.shard.stage_id, []).append(attempt)
    return found


def _stage_lineage(item: RunStage, attempts: list[Attempt]) -> StageLineage:
    stage = item.stage
    inputs = [(name, "imported", digest) for name, digest in sorted(stage.input_digests.items())]
    inputs += [(needed.name, needed.upstream.title, needed.upstream.digest) for needed in stage.inputs.all()]
    outcomes = Counter(attempt.outcome.replace("_", " ") or "running" for attempt in attempts)
    title = stage_title(item.key, stage.title)
    return StageLineage(item.key, title, stage, item.reused, inputs, sorted(outcomes.items()), attempts[:10])


def status_as_json(page: RunPage) -> dict[str, Any]:
    """Return where a run stands for programs: status, share, stages. `results_as_json` has the figures."""
    return {
        "id": page.run.pk,
        "name": page.run.name,
        "status": page.run.status,
        "message": page.run.message,
        "share": round(page.progress.share, 4),
        "stages": [
            {
                "key": stage.key, "title": stage.title, "status": stage.status.value,
                "share": round(stage.share, 4), "done": stage.done, "total": stage.total, "unit": stage.unit,
                "shards_done": stage.shards_done, "shards": stage.shards, "reused": stage.reused,
                "tokens_per_second": stage.tokens_per_second,
                "seconds": round(stage.seconds, 1) if stage.seconds is not None and stage.status.is_final else None,
            }
            for stage in page.progress.stages
        ],
    }  # fmt: skip
