"""The paper's tables and figures as studies, from `paper_studies.yaml`, with the figures it prints beside them."""

from collections.abc import Container, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from rso_core.config import RunConfig, Settings, load_run_config
from rso_core.demo import RECIPES, changed
from rso_core.errors import UserError
from rso_core.studies import SEED, Arm, Changes, Study, study_of

_FILE = Path(__file__).parent / "paper_studies.yaml"
_TUNED = Path(__file__).parent / "mini_tuned.yaml"


class PrintedTable(Settings):
    """The rows of a table as the paper prints them for one of its data sets, in %."""

    title: str
    task: str
    metrics: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]

    def figures(self, arm: str) -> dict[str, float]:
        """Return what the paper prints for an arm, by metric; nothing for an arm that is not the paper's."""
        return dict(zip(self.metrics, self.rows.get(arm, ()), strict=False))


class Preset(Settings):
    """A table or figure of the paper: its arms, and its printed figures by data set."""

    title: str
    about: str
    grid: dict[str, tuple[str | int | float | bool, ...]] = Field({}, description="As in a study.")
    arms: tuple[Arm, ...] = ()
    needs: tuple[str, ...] = Field((), description="Settings that the base recipe must name for it.")
    built_in: Changes = Field({}, description="What it changes in the recipe of the built-in task.")
    paper: dict[str, PrintedTable] = Field({}, description="Printed figures by data set of the paper.")


@lru_cache(maxsize=1)
def study_presets() -> Mapping[str, Preset]:
    """Return the presets by name, in the paper's order."""
    values = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return {name: Preset.model_validate(value) for name, value in values.items()}


def preset_study(
    name: str, *, base: RunConfig, seeds: Iterable[int], title: str = "", tuned: Mapping[str, Changes] | None = None
) -> Study:
    """Return the study of a preset on a base recipe, with what was tuned for it. Raises UserError when there is no such preset."""
    preset = study_presets().get(name)
    if preset is None:
        message = f"no preset is called {name!r}; there are {', '.join(study_presets())}"
        raise UserError(message)
    _refuse_missing(preset, base)
    values: dict[str, Any] = {
        "name": title or preset.title,
        "preset": name,
        "base": base,
        "seeds": tuple(seeds),
        "tuned": tuned or {},
    }
    return study_of(values | {"grid": preset.grid, "arms": preset.arms})


def _refuse_missing(preset: Preset, base: RunConfig) -> None:
    for path in preset.needs:
        part, _, name = path.partition(".")
        if not getattr(getattr(base, part), name):
            message = f"{preset.title} needs `{path}` in the base recipe, which is empty. {preset.about}"
            raise UserError(message)


def printed_tables(study: Study) -> dict[str, PrintedTable]:
    """Return the paper's own figures for a study: of the data set with its task, if the paper has that."""
    preset = study_presets().get(study.preset)
    tables = preset.paper if preset else {}
    return {name: table for name, table in tables.items() if table.task == study.base.task}


def mini_tuned(but: Container[str] = ()) -> dict[str, Changes]:
    """Return what `study_tuning` chose for each method on the built-in task, `but` the settings somebody asked for."""
    values = yaml.safe_load(_TUNED.read_text(encoding="utf-8"))
    return {
        name: {path: value for path, value in method["kept"].items() if path not in but}
        for name, method in values["methods"].items()
    }


def mini_base(preset: str = "") -> RunConfig:
    """Return the recipe of the built-in task for a study: each seed draws its own D_hf, targets and weights.

    `preset` is the one that the study is of, if any; what it changes in the built-in task is changed.
    """
    config = load_run_config(RECIPES / "mini_tldr.yaml")
    seeded = {
        path: text.replace("seed=0", f"seed={SEED}")
        for path, text in (("data.preferences", config.data.preferences), ("data.sft", config.data.sft))
    }
    own = study_presets()[preset].built_in if preset in study_presets() else {}
    return changed(config, {**seeded, "name": "mini", "model.base": f"mini_tldr:family=causal,seed={SEED}", **own})
