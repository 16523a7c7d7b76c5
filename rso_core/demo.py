"""The recipes that come with the product, as configurations: the one place they are read from.

Web demo, command line, tests and benchmarks use the same two files in `rso_core/recipes/`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rso_core.config import PairSource, RunConfig, checked_run_config, load_run_config

RECIPES = Path(__file__).parent / "recipes"
System = Literal["rso", "dpo"]
_PAIR_SOURCES: dict[System, PairSource] = {"rso": "rso_sample_rank", "dpo": "direct"}


def demo_config(system: System, seed: int = 0) -> RunConfig:
    """Return the recipe of the built-in task for a system; another seed draws other data, weights and samples."""
    config = load_run_config(RECIPES / "mini_tldr.yaml")
    changes = {
        "name": f"mini {system.upper()}",
        "seed": seed,
        "pairs.pair_source": _PAIR_SOURCES[system],
        "data.preferences": config.data.preferences.replace("seed=0", f"seed={seed}"),
        "data.sft": config.data.sft.replace("seed=0", f"seed={seed}"),
        "model.base": config.model.base.replace("seed=0", f"seed={seed}"),
    }
    return changed(config, changes)


def real_config(*, preferences: str, sft: str, base: str, name: str = "", task: str = "dialogue") -> RunConfig:
    """Return the recipe for real preferences on two cores, with these datasets and base model."""
    changes = {"data.preferences": preferences, "data.sft": sft, "model.base": base, "task": task}
    config = load_run_config(RECIPES / "real_dialogue.yaml")
    return changed(config, changes | ({"name": name} if name else {}))


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with settings replaced by their path. Raises UserError when one is wrong."""
    values = config.model_dump(mode="json")
    for path, value in changes.items():
        *parents, name = path.split(".")
        part = values
        for parent in parents:
            inner = part.setdefault(parent, {})
            part = inner if isinstance(inner, dict) else {}
        part[name] = value
    return checked_run_config(values)
