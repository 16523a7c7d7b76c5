"""What the page of a study shows: how far it is, the table with intervals, what is clear, what was shared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from rso_core import studies
from rso_core.plan import GOLD
from rso_core.study_bundle import Bundle, columns_of, doubtful_reward_models, make_bundle, marks
from rso_core.study_presets import PrintedTable, printed_tables, study_presets
from rso_core.study_results import METRIC_TITLES, METRICS, SFT, CellRecord, DoneStage, compare, measured
from webapp.runs.artifacts import store
from webapp.runs.models import LIVE, RunStage, Status
from webapp.runs.run_results import system_of
from webapp.studies.models import Study, StudyCell

# Stages whose summaries the table is made of; the others' can be large.
_READ = (
    "judge_accuracy",
    "auto_sxs_policy",
    "auto_sxs_sft",
    "win_rate_policy",
    "win_rate_sft",
    "reward_training",
    GOLD,
    "sampling",
    "scoring",
    "rejection_sampling",
    "pairs",
)


@dataclass(frozen=True)
class CellState:
    """A cell as the page shows it."""

    cell: StudyCell
    status: str
    message: str


@dataclass(frozen=True)
class Row:
    """A row of the table: an arm, its figures, the paper's, the arms it is clearly above, its cells."""

    arm: str
    system: str
    settings: list[str]
    figures: list[dict[str, Any]]
    printed: list[float | None]
    cost: Mapping[str, Any] | None
    mean_chars: float | None
    cells: list[CellState]


@dataclass
class StudyPage:
    """Everything in the polled part of the page."""

    study: Study
    plan: studies.Study
    cells: list[CellState]
    bundle: Bundle
    against: str

    @property
    def counts(self) -> dict[str, int]:
        """Return how many cells are in each state."""
        return dict(Counter(state.status for state in self.cells))

    @property
    def done(self) -> int:
        """Return how many cells are done."""
        return self.counts.get(Status.DONE, 0)

    @property
    def status(self) -> str:
        """Return the study's state in the words of runs."""
        return state_of(self.study, self.counts)

    @property
    def is_live(self) -> bool:
        """Return whether something happens by itself."""
        return self.status in {*LIVE}

    @cached_property
    def metrics(self) -> list[str]:
        """Return the metrics that have been measured, or at least asked for."""
        return columns_of(self.bundle)

    @property
    def doubtful_reward_models(self) -> list[dict[str, Any]]:
        """Return the reward models that held-out human pairs do not show to be better than chance."""
        return doubtful_reward_models(self.bundle)

    @property
    def metric_titles(self) -> list[str]:
        """Return the metrics' names for people."""
        return [METRIC_TITLES[metric] for metric in self.metrics]

    @property
    def printed(self) -> list[tuple[PrintedTable, str]]:
        """Return the columns of the paper's own figures: table and metric."""
        return [(table, metric) for table in printed_tables(self.plan).values() for metric in table.metrics]

    @property
    def printed_titles(self) -> list[str]:
        """Return the names of these columns."""
        return [METRIC_TITLES[metric] for _, metric in self.printed]

    @property
    def axes(self) -> list[str]:
        """Return the columns of the settings that differ."""
        return [path.rsplit(".", 1)[-1].replace("_", " ") for path in self.plan.axes]

    @property
    def about(self) -> str:
        """Return what the preset asks."""
        preset = study_presets().get(self.study.preset)
        return preset.about if preset else ""

    @cached_property
    def rows(self) -> list[Row]:
        """Return the rows of the table, SFT first."""
        by_arm: dict[str, list[CellState]] = {}
        for state in self.cells:
            by_arm.setdefault(state.cell.arm, []).append(state)
        sft = {"arm": SFT, "settings": {}, "figures": self.bundle["sft"], "paper": {}, "cost": None, "mean_chars": None}
        return [self._row(row, by_arm.get(row["arm"], [])) for row in [sft, *self.bundle["rows"]]]

    def _row(self, row: Mapping[str, Any], cells: list[CellState]) -> Row:
        above = marks(self.bundle)
        figures = [
            {
                "metric": metric,
                "rate": row["figures"].get(metric),
                "above": above.get((row["arm"], metric), []),
                "against": self._against(metric, row["arm"]),
                "seeds": self._by_seed(row["arm"], metric),
            }
            for metric in self.metrics
        ]
        printed = [table.figures(row["arm"]).get(metric) for table, metric in self.printed]
        settings = [studies.shown(row["settings"][path]) if row["settings"] else "" for path in self.plan.axes]
        system = SFT if row["arm"] == SFT else self._system(row["arm"])
        return Row(row["arm"], system, settings, figures, printed, row["cost"], row["mean_chars"], cells)

    def _system(self, arm: str) -> str:
        config = next(cell.config for cell in self.study.planned_cells if cell.arm == arm)
        return system_of(config.model_dump(mode="json")).name

    def _against(self, metric: str, arm: str) -> Mapping[str, Any] | None:
        return None if arm == self.against else self._differences.get((metric, arm))

    @cached_property
    def _differences(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """Return each arm's difference from the arm that was chosen, the planned verdict where there is one."""
        if not self.against:
            return {}
        found = measured(records_of(self.study), store())
        planned = {(item["metric"], item["first"], item["second"]): item for item in self.bundle["comparisons"]}
        differences: dict[tuple[str, str], Mapping[str, Any]] = {}
        for arm in found:
            for metric in METRICS:
                known = planned.get((metric, arm, self.against))
                item = known or ((made := compare(found, metric, arm, self.against)) and made.as_dict())
                if item:
                    differences[metric, arm] = item
        return differences

    def _by_seed(self, arm: str, metric: str) -> str:
        seeds = [
            f"seed {cell['seed']}: {100 * cell['figures'][metric]['value']:.1f} %"
            for cell in self.bundle["cells"]
            if cell["arm"] == arm and metric in cell["figures"]
        ]
        return "; ".join(seeds)

    @property
    def runs_of_seed(self) -> dict[int, list[int]]:
        """Return the runs of each seed, for the page that compares runs."""
        found: dict[int, list[int]] = {}
        for state in self.cells:
            if state.cell.run_id is not None:
                found.setdefault(state.cell.seed, []).append(state.cell.run_id)
        return found

    @property
    def sharing(self) -> list[dict[str, Any]]:
        """Return what was shared, stage kind by stage kind, in the order of a run."""
        kinds = self.bundle["sharing"]["kinds"]
        return [{"kind": kind.replace("_", " "), **kinds[kind]} for kind in kinds]


def state_of(study: Study, counts: Mapping[str, int]) -> str:
    """Return the state of a study whose cells are in these states."""
    present = {status for status, count in counts.items() if count}
    if present == {Status.DONE}:
        return Status.DONE
    if study.paused:
        return Status.STOPPED
    if present & LIVE:
        return Status.RUNNING if present & {Status.RUNNING, Status.DONE, Status.READY} else Status.WAITING
    return Status.FAILED if present & {Status.FAILED, Status.OUT_OF_MEMORY} else Status.STOPPED


def study_page(study: Study, against: str = "") -> StudyPage:
    """Return what the page shows; `against` is the arm that all others are compared with, if that was asked for."""
    plan = study.plan
    arms = {SFT, *(arm.key for arm in plan.all_arms)}
    found = records_of(study)
    cells = [_state(cell) for cell in study.cells.select_related("run")]
    return StudyPage(study, plan, cells, bundle_of(study, found), against if against in arms else "")


def _state(cell: StudyCell) -> CellState:
    if cell.run is not None:
        return CellState(cell, cell.run.status, cell.run.message)
    return CellState(cell, Status.FAILED if cell.message else Status.WAITING, cell.message or "waits for its data")


def records_of(study: Study) -> list[CellRecord]:
    """Return the cells with what their stages left, in two queries."""
    found = {(cell.arm, cell.seed): cell for cell in study.planned_cells}
    rows = RunStage.objects.filter(run__study_cells__study=study).order_by("run", "order")
    summaries = dict(rows.filter(key__in=_READ, stage__status=Status.DONE).values_list("stage", "stage__summary"))
    by_run: dict[int, dict[str, DoneStage]] = {}
    fields = (
        "run",
        "stage",
        "key",
        "stage__kind",
        "stage__fingerprint",
        "stage__digest",
        "stage__started",
        "stage__finished",
    )
    for run, stage, key, kind, fingerprint, digest, started, finished in rows.values_list(*fields):
        seconds = (finished - started).total_seconds() if started and finished and digest else 0.0
        by_run.setdefault(run, {})[key] = DoneStage(key, kind, fingerprint, digest, summaries.get(stage), seconds)
    runs = {(arm, seed): run for arm, seed, run in study.cells.values_list("arm", "seed", "run")}
    return [CellRecord(cell, by_run.get(runs.get(name) or 0, {})) for name, cell in found.items()]


def bundle_of(study: Study, found: Sequence[CellRecord], *, everything: bool = False) -> Bundle:
    """Return the bundle of a study, made anew only when another stage has finished; `everything`: all comparisons."""
    done = tuple(
        (record.cell.arm, record.cell.seed, key, stage.digest)
        for record in found
        for key, stage in record.stages.items()
        if stage.digest
    )
    return _made(study.definition, done, _Records(found), everything)


class _Records:
    """Records as an argument that the cache does not look at: what is done decides."""

    def __init__(self, records: Sequence[CellRecord]) -> None:
        self.records = records

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Records)


@lru_cache(maxsize=16)
def _made(definition: str, _: tuple[tuple[str, int, str, str], ...], found: _Records, everything: bool) -> Bundle:  # noqa: FBT001
    plan = Study(definition=definition).plan
    return make_bundle(plan, found.records, store(), every_comparison=everything)
