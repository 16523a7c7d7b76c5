"""Campaigns described in a file: YAML or JSON with the names of the form's fields, checked by the form itself.

`systems` is a list: {policy: run}, {sft: run}, {target: true} or {file: path}, each with an optional `label`; a run is
its number or its name. Everything that is left out is as in a new form.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rso_core.errors import UserError
from rso_core.yaml_text import read_yaml
from webapp.accounts.models import User
from webapp.human_eval.campaign_texts import TEMPLATES
from webapp.human_eval.forms_campaigns import template_values, written_anchors
from webapp.human_eval.forms_contents import PLACES, NewCampaignForm
from webapp.runs.models import Dataset, Run

_KINDS = ("policy", "sft", "target", "file")


class Described(NamedTuple):
    """A checked form, and the files of its systems by index."""

    form: NewCampaignForm
    files: dict[int, Path]


def read_campaign_file(path: Path, *, user: User) -> Described:
    """Read a description and check it. Raises UserError that names each wrong value."""
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"{path} cannot be read as YAML or JSON: {error}"
        raise UserError(message) from error
    if not isinstance(values, dict) or not isinstance(values.get("systems"), list):
        message = f"{path} must hold a mapping with `name`, `dataset` and `systems`, a list of two or three"
        raise UserError(message)
    systems = values.pop("systems")
    data = _typed(values, user)
    files = _add_systems(data, systems, path.parent, user)
    form = NewCampaignForm(data, user=user)
    if unknown := set(values) - set(form.fields) - {"template"}:
        message = (
            f"{', '.join(sorted(map(str, unknown)))} is no field of a campaign; its fields are {', '.join(form.fields)}"
        )
        raise UserError(message)
    if not form.is_valid():
        raise UserError("; ".join(f"{name}: {' '.join(map(str, errors))}" for name, errors in form.errors.items()))
    return Described(form, files)


def _typed(values: Mapping[str, Any], user: User) -> dict[str, Any]:
    """Return the values as somebody would have typed them, over those of a new form."""
    dataset = Dataset.objects.visible_to(user).filter(name=str(values.get("dataset", ""))).first()
    if dataset is None:
        message = f"no dataset is called {values.get('dataset')!r}; name an imported one"
        raise UserError(message)
    task = values.get("template", dataset.task)
    if task not in TEMPLATES:
        message = f"`template` must be one of {', '.join(TEMPLATES)}, got {task!r}"
        raise UserError(message)
    data = {**template_values(task), "reference": "2", **values, "dataset": dataset.pk}
    if isinstance(data["anchors"], dict):
        data["anchors"] = written_anchors({str(point): str(words) for point, words in data["anchors"].items()})
    return data


def _add_systems(data: dict[str, Any], systems: list[Any], folder: Path, user: User) -> dict[int, Path]:
    if len(systems) not in PLACES[1:]:
        message = f"`systems` must list two or three, got {len(systems)}"
        raise UserError(message)
    files: dict[int, Path] = {}
    for place, system in enumerate(systems, start=1):
        kinds = [kind for kind in _KINDS if isinstance(system, dict) and kind in system]
        if len(kinds) != 1:
            message = f"system {place} must have one of {', '.join(_KINDS)}, got {system!r}"
            raise UserError(message)
        (kind,) = kinds
        chosen = f"{kind}:{_run(system[kind], user)}" if kind in {"policy", "sft"} else kind
        data |= {f"system_{place}": chosen, f"label_{place}": system.get("label", "")}
        if kind == "file":
            files[place - 1] = folder / str(system["file"])
    return files


def _run(name: Any, user: User) -> int:
    runs = Run.objects.visible_to(user)
    found = runs.filter(pk=name) if isinstance(name, int) else runs.filter(name=str(name))
    if (run := found.order_by("-created").first()) is None:
        message = f"no run is called {name!r}; give the number or the name of a finished run"
        raise UserError(message)
    return run.pk
