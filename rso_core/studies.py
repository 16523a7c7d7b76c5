"""A study: one base recipe, a grid over any of its settings, and seeds. A paper's table or figure is one.

An *arm* is a row of the table: the base with some settings changed. A *cell* is an arm at a seed, and is one run; runs
share what they have in common by the fingerprints of their stages. `{seed}` in a name of data or model is replaced by
the cell's seed, so that a seed can redraw D_hf and targets too. Must not import torch, transformers or datasets.
"""

import difflib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from rso_core.config import RunConfig, Settings, describe_validation_error, recipe_values
from rso_core.demo import changed
from rso_core.errors import UserError

MOST_CELLS = 1000
SEED = "{seed}"
_OWN_SETTINGS = frozenset({"name", "seed"})
_SHOWN_DIGITS = 6

Changes = dict[str, str | int | float | bool]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Arm(Settings):
    """A row of a study: what it is called, and which settings it changes."""

    key: str = Field(min_length=1, max_length=60, description="Name of the row.")
    changes: Changes = Field({}, description="Settings by their path, for example fitting.gamma.")


class Study(Settings):
    """A study: base recipe, grid and further arms, seeds."""

    name: str = Field(min_length=1, max_length=60, description="What you will recognise this study by.")
    preset: str = Field("", description="Table or figure of the paper that it repeats; its figures stand beside.")
    base: RunConfig = Field(description="The recipe that every cell starts from; its name and seed are not used.")
    grid: dict[str, tuple[str | int | float | bool, ...]] = Field(
        {}, description="Values of settings by path; every combination is an arm."
    )
    arms: tuple[Arm, ...] = Field((), description="Further arms beside the grid's.")
    tuned: dict[str, Changes] = Field(
        {},
        description="Settings chosen for each method on validation prompts, by loss and source of pairs; what an arm changes goes before them.",
    )
    seeds: tuple[Seed, ...] = Field(min_length=1, description="Seeds; each arm is run with every one.")

    @field_validator("seeds")
    @classmethod
    def _once_each(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            message = f"each seed counts once, got {twice[0]} more than once; remove the repetition"
            raise ValueError(message)
        return seeds

    @model_validator(mode="after")
    def _cells_are_possible(self) -> Self:
        for path in sorted({*self._changed, *self.grid}):
            _refuse_unknown(path)
        _refuse_many(len(self.all_arms) * len(self.seeds))
        _refuse_repeated(self.all_arms)
        seen: dict[str, str] = {}
        for arm in self.all_arms:
            same = seen.setdefault(_checked(self, arm).model_dump_json(exclude={"name"}), arm.key)
            if same != arm.key:
                message = f"the arms {same!r} and {arm.key!r} are the same recipe; remove one of them"
                raise ValueError(message)
        return self

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """Return the grid's arms and the further ones, in the order of the table."""
        return (*grid_arms(self.grid), *self.arms) or (Arm(key="base"),)

    @property
    def axes(self) -> list[str]:
        """Return the settings that differ between the arms: the columns of the table."""
        return list(dict.fromkeys([*self.grid, *self._changed]))

    @property
    def _changed(self) -> list[str]:
        """Return every setting that an arm or what was tuned changes, as often as it is."""
        return [path for changes in (*(arm.changes for arm in self.all_arms), *self.tuned.values()) for path in changes]


@dataclass(frozen=True)
class Cell:
    """An arm at a seed: one run."""

    arm: str
    seed: int
    config: RunConfig


def grid_arms(grid: Mapping[str, Iterable[Any]]) -> list[Arm]:
    """Return an arm for every combination of a grid's values, the first setting slowest; none without a grid."""
    if not grid:
        return []
    combinations = itertools.product(*grid.values())
    return [
        Arm(key=" ".join(shown(value) for value in values), changes=dict(zip(grid, values, strict=True)))
        for values in combinations
    ]


def shown(value: Any) -> str:
    """Return a setting's value as people write it."""
    if isinstance(value, float):
        return f"{value:.{_SHOWN_DIGITS}g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def cells(study: Study) -> list[Cell]:
    """Return the cells of a study, all arms of a seed together: what they share is then fresh."""
    return [Cell(arm.key, seed, cell_config(study, arm, seed)) for seed in study.seeds for arm in study.all_arms]


def cell_config(study: Study, arm: Arm, seed: int) -> RunConfig:
    """Return the recipe of a cell. Raises UserError when a changed setting is wrong."""
    tuned = study.tuned.get(method_of(changed(study.base, arm.changes)), {})
    changes = {**tuned, **arm.changes, "seed": seed, "name": f"{study.name[:38]} · {arm.key} · seed {seed}"}
    config = changed(study.base, changes)
    return RunConfig.model_validate(_with_seed(config.model_dump(mode="json"), seed))


def method_of(config: RunConfig) -> str:
    """Return the method that a recipe is, as `Study.tuned` names it: loss and source of pairs.

    SLiC's loss has the gradients of `hinge` but for the regulariser, and is tuned as it.
    """
    loss = "hinge" if config.fitting.loss == "slic" else config.fitting.loss
    return f"{loss} {config.pairs.pair_source}"


def _with_seed(value: Any, seed: int) -> Any:
    if isinstance(value, dict):
        return {name: _with_seed(part, seed) for name, part in value.items()}
    return value.replace(SEED, str(seed)) if isinstance(value, str) else value


def _checked(study: Study, arm: Arm) -> RunConfig:
    try:
        return cell_config(study, arm, study.seeds[0])
    except UserError as error:
        message = f"the arm {arm.key!r} is not possible: {error}"
        raise ValueError(message) from error


def setting_paths(schema: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Yield the path of every setting of a recipe."""
    for name, field in schema.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield from setting_paths(part, f"{prefix}{name}.")
        else:
            yield prefix + name


def _refuse_unknown(path: str) -> None:
    known = list(setting_paths())
    if path in _OWN_SETTINGS:
        message = f"an arm cannot change `{path}`: the study sets it for each cell. List seeds under `seeds`"
        raise ValueError(message)
    if path not in known:
        close = difflib.get_close_matches(path, known, n=3, cutoff=0.4)
        message = (
            f"a recipe has no setting {path!r}; did you mean {' or '.join(close) or 'one of ' + ', '.join(known)}?"
        )
        raise ValueError(message)


def _refuse_many(count: int) -> None:
    if count > MOST_CELLS:
        message = f"a study has at most {MOST_CELLS} cells (arms × seeds), got {count}; split it into several"
        raise ValueError(message)


def _refuse_repeated(arms: Iterable[Arm]) -> None:
    keys = [arm.key for arm in arms]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        message = f"each arm has its own name, got {twice!r} twice; rename one of them"
        raise ValueError(message)


def extended(study: Study, *, seeds: Iterable[int] = (), grid: Mapping[str, Iterable[Any]] | None = None) -> Study:
    """Return a study with more seeds or more values of its grid. What it has already stays. Raises UserError."""
    values: dict[str, Any] = study.model_dump(mode="json")
    values["seeds"] = list(dict.fromkeys([*study.seeds, *seeds]))
    for path, more in (grid or {}).items():
        if path not in study.grid:
            message = f"the grid of {study.name!r} is over {', '.join(study.grid) or 'nothing'}, not {path!r}; make a new study"
            raise UserError(message)
        values["grid"][path] = list(dict.fromkeys([*study.grid[path], *more]))
    return study_of(values)


def study_of(values: Any) -> Study:
    """Return the study that values describe. Raises UserError naming every wrong one."""
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise UserError(describe_validation_error(error)) from error


def parse_study(text: str) -> Study:
    """Return the study in YAML or JSON: a study's settings, or a bundle that holds them under `study`."""
    values = recipe_values(text)
    return study_of(values.get("study", values))


def dump_study(study: Study) -> str:
    """Return a study as YAML that `parse_study` reads back to the same value."""
    return yaml.safe_dump(json.loads(study.model_dump_json()), sort_keys=False, allow_unicode=True)


_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parse_seeds(text: str) -> list[int]:
    """Return the seeds written as numbers and ranges: "0, 10-14". Raises UserError."""
    seeds: list[int] = []
    for word in text.replace(",", " ").split():
        found = _RANGE.fullmatch(word)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < first + MOST_CELLS:
            message = f"seeds are whole numbers and ranges like 10-14, at most {MOST_CELLS}; received {word!r}"
            raise UserError(message)
        seeds += range(first, last + 1)
    return seeds
