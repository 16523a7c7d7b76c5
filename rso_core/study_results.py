"""What a study found: its table with intervals, which differences are clear, what was shared and what it cost.

Works on what the cells' finished stages left, whether a worker of the web application made them or the command line.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rso_core.artifacts import ArtifactStore, read_table
from rso_core.auto_sxs import worth_of
from rso_core.cluster_statistics import holm
from rso_core.costs import Cost, cost_of
from rso_core.studies import Arm, Cell, Study, cell_config
from rso_core.study_statistics import Estimate, Outcomes, mean_over_seeds, paired_over_seeds

METRICS = ("proxy", "gold", "auto_sxs")
_COLUMNS = {"proxy": "win", "gold": "gold_win"}  # of the rows that `win_rate` writes
METRIC_TITLES = {"proxy": "proxy %", "gold": "gold %", "auto_sxs": "AutoSxS %"}
SFT = "SFT"
_LEVEL = 0.05
_PAIR_SOURCE = "pairs.pair_source"


@dataclass(frozen=True)
class DoneStage:
    """A stage of a cell: what it is, and what it left if it has finished (else no digest)."""

    key: str
    kind: str
    fingerprint: str
    digest: str = ""
    summary: Mapping[str, Any] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class CellRecord:
    """A cell and its stages by key."""

    cell: Cell
    stages: Mapping[str, DoneStage]

    @property
    def is_done(self) -> bool:
        """Return whether every stage has finished."""
        return bool(self.stages) and all(stage.digest for stage in self.stages.values())


@lru_cache(maxsize=512)
def outcomes(store: ArtifactStore, digest: str) -> dict[str, Outcomes]:
    """Return what `win_rate` measured, by metric: a number for each test prompt. Artifacts never change."""
    table = read_table(store.files(digest), ["prompt_id", "root", *_COLUMNS.values()])
    prompts, roots = (table[name].to_pylist() for name in ("prompt_id", "root"))
    found = {metric: _known(prompts, roots, table[column].to_pylist()) for metric, column in _COLUMNS.items()}
    return {metric: values for metric, values in found.items() if values.prompts}


@lru_cache(maxsize=512)
def judged(store: ArtifactStore, digest: str) -> dict[str, Outcomes]:
    """Return what the judge said of each test prompt; prompts that it left unjudged are not among them."""
    table = read_table(store.files(digest), ["prompt_id", "root", "outcome"])
    worth = [worth_of(outcome) for outcome in table["outcome"].to_pylist()]
    found = _known(table["prompt_id"].to_pylist(), table["root"].to_pylist(), worth)
    return {"auto_sxs": found} if found.prompts else {}


def _known(prompts: Sequence[str], roots: Sequence[str], values: Sequence[float | None]) -> Outcomes:
    rows = [row for row in zip(prompts, roots, values, strict=True) if row[2] is not None]
    return Outcomes(*(tuple(column) for column in zip(*rows, strict=True))) if rows else Outcomes((), (), ())


Measured = dict[str, dict[str, dict[int, Outcomes]]]  # arm → metric → seed → outcomes


def measured(records: Iterable[CellRecord], store: ArtifactStore) -> Measured:
    """Return what has been measured, with the SFT policy as an arm of its own."""
    found: Measured = {SFT: {}}
    for record in records:
        found.setdefault(record.cell.arm, {})
        for arm, who in ((record.cell.arm, "policy"), (SFT, "sft")):
            for read, key in ((outcomes, f"win_rate_{who}"), (judged, f"auto_sxs_{who}")):
                stage = record.stages.get(key)
                if stage is not None and stage.digest:
                    for metric, values in read(store, stage.digest).items():
                        found[arm].setdefault(metric, {})[record.cell.seed] = values
    return found


def estimates(found: Measured) -> dict[str, dict[str, Estimate]]:
    """Return the mean over seeds of each arm and metric."""
    return {
        arm: {metric: mean_over_seeds(by_seed) for metric, by_seed in metrics.items()} for arm, metrics in found.items()
    }


@dataclass(frozen=True)
class Comparison:
    """The paired difference first − second of two arms, and what may be said of it."""

    metric: str
    first: str
    second: str
    difference: Estimate
    adjusted: float | None  # the p-value after Holm; None for an exploratory comparison

    @property
    def planned(self) -> bool:
        """Return whether the comparison belongs to the family planned beforehand."""
        return self.adjusted is not None

    @property
    def verdict(self) -> str:
        """Return "clear" or "not distinguishable" for a planned comparison, "exploratory" for any other."""
        if self.adjusted is None:
            return "exploratory"
        return "clear" if self.adjusted < _LEVEL else "not distinguishable"

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        own = {name: getattr(self, name) for name in ("metric", "first", "second", "adjusted", "verdict")}
        return own | {"difference": self.difference.as_dict()}


def judge_of(records: Iterable[CellRecord]) -> Mapping[str, Any] | None:
    """Return how good the judge is on held-out human pairs, from the first cell that measured it."""
    found = (record.stages.get("judge_accuracy") for record in records)
    return next((stage.summary for stage in found if stage is not None and stage.digest and stage.summary), None)


def judged_counts(records: Iterable[CellRecord]) -> dict[str, int] | None:
    """Return what AutoSxS was asked in all and what it could not say, each judged stage once; None when it was not asked."""
    stages = (stage for record in records for key, stage in record.stages.items() if key.startswith("auto_sxs_"))
    distinct = {stage.digest: stage.summary for stage in stages if stage.digest and stage.summary}
    if not distinct:
        return None
    counts = {
        name: sum(summary[name] for summary in distinct.values()) for name in ("prompts", "samples", "unparseable")
    }
    return counts | {"unjudged": sum(summary["outcomes"]["unjudged"] for summary in distinct.values())}


def planned_pairs(study: Study) -> list[tuple[str, str]]:
    """Return the planned comparisons: rso − sft and rso − direct of recipes that are otherwise the same.

    What was tuned for each method beforehand may differ: the methods are compared, each at its best.
    """
    study = study.model_copy(update={"tuned": {}})
    configs = {arm.key: _without_source(study, arm) for arm in study.all_arms}
    by_source = {arm.key: _source(study, arm) for arm in study.all_arms}
    return [
        (ours, theirs)
        for ours, theirs in itertools.permutations(configs, 2)
        if by_source[ours] == "rso_sample_rank"
        and by_source[theirs] in {"sft_sample_rank", "direct"}
        and configs[ours] == configs[theirs]
    ]


def _source(study: Study, arm: Arm) -> str:
    return cell_config(study, arm, study.seeds[0]).pairs.pair_source


def _without_source(study: Study, arm: Arm) -> str:
    config = cell_config(study, arm, study.seeds[0])
    pairs = config.pairs.model_copy(update={"pair_source": "direct"})
    return config.model_copy(update={"pairs": pairs, "name": ""}).model_dump_json()


def planned_comparisons(study: Study, found: Measured) -> list[Comparison]:
    """Return the planned comparisons that can be made, adjusted by Holm over the family of each metric."""
    made: list[Comparison] = []
    for metric in METRICS:
        family = [(*pair, difference) for pair in planned_pairs(study) if (difference := _paired(found, metric, *pair))]
        adjusted = holm([difference.p for _, _, difference in family])
        made += [Comparison(metric, *item, p) for item, p in zip(family, adjusted, strict=True)]
    return made


def compare(found: Measured, metric: str, first: str, second: str) -> Comparison | None:
    """Return an exploratory comparison of two arms; None where they share no seed."""
    difference = _paired(found, metric, first, second)
    return None if difference is None else Comparison(metric, first, second, difference, None)


def _paired(found: Measured, metric: str, first: str, second: str) -> Estimate | None:
    return paired_over_seeds(*(found.get(arm, {}).get(metric, {}) for arm in (first, second)))


def all_comparisons(study: Study, found: Measured) -> list[Comparison]:
    """Return the comparisons of every two arms and of each with SFT: the planned ones, then the exploratory ones."""
    planned = planned_comparisons(study, found)
    known = {(item.metric, *sorted((item.first, item.second))) for item in planned}
    pairs = itertools.combinations([*(arm.key for arm in study.all_arms), SFT], 2)
    others = [
        item
        for metric, (first, second) in itertools.product(METRICS, pairs)
        if (metric, *sorted((first, second))) not in known and (item := compare(found, metric, first, second))
    ]
    return planned + others


def sharing(records: Sequence[CellRecord]) -> dict[str, Any]:
    """Return what the cells shared: for each kind of stage how often it is used and how often it was done, and seconds.

    `seconds_separate` is what the finished stages would have taken had every cell done its own.
    """
    uses: dict[str, list[DoneStage]] = {}
    for record in records:
        for stage in record.stages.values():
            if stage.digest:
                uses.setdefault(stage.kind, []).append(stage)
    kinds = {kind: _shared_kind(stages) for kind, stages in uses.items()}
    totals = {name: sum(kind[name] for kind in kinds.values()) for name in ("seconds", "seconds_separate")}
    return {"kinds": kinds, **totals}


def _shared_kind(stages: Sequence[DoneStage]) -> dict[str, Any]:
    distinct = {stage.fingerprint: stage for stage in stages}
    return {
        "uses": len(stages),
        "done": len(distinct),
        "seconds": sum(stage.seconds for stage in distinct.values()),
        "seconds_separate": sum(stage.seconds for stage in stages),
    }


def cost(record: CellRecord) -> Cost | None:
    """Return the cost of a cell's training data for each prompt (Table 7); None while it has none."""
    stages = {key: stage.summary or {} for key, stage in record.stages.items() if stage.digest}
    return cost_of(record.cell.config, stages)
