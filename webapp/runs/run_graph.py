"""The stages of a run as boxes and arrows: five columns, as the method proceeds.

Boxes stand in a grid of the page; arrows are paths in a drawing behind it that is `WIDTH` units wide, whatever the
width of the page, and as many pixels high as the grid. Arrows that follow from others are left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from webapp.runs.models import RunStage, StageInput, Status
from webapp.runs.progress import RunProgress, StageProgress

PHASES = ("Start", "Candidates", "Pairs", "Policy", "Figures")
WIDTH = 1000
BOX_HEIGHT, ROW_GAP = 68, 28  # pixels; runs.css has the same
_COLUMN = WIDTH // len(PHASES)
_MARGIN = 14  # units between a box and the edge of its column
_ROW = BOX_HEIGHT + ROW_GAP

# Where each stage stands: column, row.
_PLACES: dict[str, tuple[int, int]] = {
    "sft": (0, 0),
    "reward_training": (0, 1),
    "length_profile": (0, 2),
    "sampling": (1, 0),
    "scoring": (1, 1),
    "rejection_sampling": (1, 2),
    "pairs": (2, 0),
    "targets": (2, 0),
    "reference_log_probs": (2, 1),
    "policy_fitting": (3, 0),
    "checkpoint_selection": (3, 1),
    "checkpoint_figures": (3, 2),
    "generation_policy": (4, 0),
    "win_rate_policy": (4, 1),
    "report": (4, 3),
    "generation_sft": (1, 3),
    "win_rate_sft": (2, 3),
    "auto_sxs_sft": (2, 4),
    "judge_accuracy": (3, 3),
    "auto_sxs_policy": (4, 2),
    "gold_reward_training": (1, 4),
}
Place = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A stage at its place; grid lines count from 1. `sides`: where arrows come in."""

    stage: StageProgress
    column: int
    row: int
    sides: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Arrow:
    """The path of an arrow; `done` when what it carries exists."""

    path: str
    done: bool


@dataclass(frozen=True)
class Graph:
    """Everything the page draws."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    height: int


def run_graph(progress: RunProgress, edges: Iterable[tuple[str, str]]) -> Graph:
    """Return the graph of a run from (from, to) pairs of stage keys."""
    stages = {stage.key: stage for stage in progress.stages}
    places = _places(stages)
    kept = sorted(_needed(set(edges)))
    taken = set(places.values())
    titles = {key: stage.title for key, stage in stages.items()}
    boxes = tuple(_box(stage, places, kept, titles) for stage in progress.stages)
    arrows = tuple(
        Arrow(_path(places[first], places[second], taken), stages[first].status == Status.DONE)
        for first, second in kept
    )
    rows = 1 + max((row for _, row in places.values()), default=0)
    return Graph(boxes, arrows, rows * _ROW - ROW_GAP)


def edges_of(run_id: int) -> list[tuple[str, str]]:
    """Return the (from, to) pairs of stage keys of a run, in two queries."""
    keys = dict(RunStage.objects.filter(run=run_id).values_list("stage", "key"))
    inputs = StageInput.objects.filter(stage__in=keys, upstream__in=keys).values_list("upstream", "stage")
    return [(keys[upstream], keys[stage]) for upstream, stage in inputs]


def _places(keys: Iterable[str]) -> dict[str, Place]:
    """Return the place of every stage; kinds that this page does not know stand below."""
    places: dict[str, Place] = {}
    unknown = 0
    for key in keys:
        if key in _PLACES:
            places[key] = _PLACES[key]
        else:
            places[key] = (unknown % len(PHASES), 4 + unknown // len(PHASES))
            unknown += 1
    return places


def _needed(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the edges without those that follow from a longer way round."""
    after: dict[str, set[str]] = {}
    for first, second in edges:
        after.setdefault(first, set()).add(second)

    def reaches(start: str, goal: str) -> bool:
        return any(item == goal or reaches(item, goal) for item in after.get(start, ()))

    return {
        (first, second)
        for first, second in edges
        if not any(reaches(item, second) for item in after[first] if item != second)
    }


def _box(
    stage: StageProgress, places: Mapping[str, Place], edges: list[tuple[str, str]], titles: Mapping[str, str]
) -> Box:
    column, row = places[stage.key]
    sources = [first for first, second in edges if second == stage.key]
    sides = {"top" if places[source][0] == column else "left" for source in sources}
    needs = tuple(titles[source] for source in sources)
    return Box(stage, column + 1, row + 1, " ".join(sorted(sides)), needs)


def _path(start: Place, end: Place, taken: set[Place]) -> str:
    (column, row), (goal, goal_row) = start, end
    y, goal_y = row * _ROW + BOX_HEIGHT // 2, goal_row * _ROW + BOX_HEIGHT // 2
    if column == goal:
        x = column * _COLUMN + _COLUMN // 2
        return f"M{x} {row * _ROW + BOX_HEIGHT}V{goal_row * _ROW}"
    left, right = (column + 1) * _COLUMN - _MARGIN, goal * _COLUMN + _MARGIN
    first, last = (column + 1) * _COLUMN, goal * _COLUMN
    between = range(column + 1, goal)
    if not any((item, row) in taken for item in between):
        return f"M{left} {y}H{last}V{goal_y}H{right}"
    if not any((item, goal_row) in taken for item in between):
        return f"M{left} {y}H{first}V{goal_y}H{right}"
    channel = goal_row * _ROW - ROW_GAP // 2
    return f"M{left} {y}H{first}V{channel}H{last}V{goal_y}H{right}"
