"""The forms of studies: a new one from a preset or a grid, and an extension."""

from typing import Any

import yaml
from django import forms
from django.core.exceptions import ValidationError

from rso_core import studies
from rso_core.config import RunConfig, parse_run_config
from rso_core.errors import UserError
from rso_core.study_presets import mini_base, mini_tuned, preset_study, study_presets
from rso_core.yaml_text import read_yaml
from webapp.accounts.models import User
from webapp.runs.models import Run

MINI, OWN = "mini_tldr", "recipe"
GRID = ""
_MONO = {"class": "mono", "spellcheck": "false"}


class NewStudyForm(forms.Form):
    """A preset or a grid, a base recipe, seeds."""

    name = forms.CharField(max_length=60, required=False, help_text="Empty: the name of the preset.")
    preset = forms.ChoiceField(label="What to run", required=False, widget=forms.RadioSelect)
    base = forms.ChoiceField(
        label="Base recipe",
        help_text="Every cell starts from it; the study changes what is varied, the name and the seed.",
    )
    recipe = forms.CharField(
        label="Recipe, YAML", required=False, max_length=100_000,
        widget=forms.Textarea(attrs={**_MONO, "rows": 12}),
        help_text="Of a run (its page downloads it) or of the command line. {seed} in a name of data is replaced by the cell’s seed.",
    )  # fmt: skip
    grid = forms.CharField(
        label="Grid, YAML", required=False, max_length=20_000,
        widget=forms.Textarea(attrs={**_MONO, "rows": 5, "placeholder": "fitting.gamma: [0.05, 0.5]\nrejection_sampling.beta: [0, 0.5, .inf]"}),
        help_text="Settings by their path with the values to try; every combination is an arm. With a preset it is added to the preset’s.",
    )  # fmt: skip
    seeds = forms.CharField(initial="0-2", max_length=200, help_text="Numbers and ranges: 0, 10-14.")

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        self.study: studies.Study | None = None
        presets = [(name, f"{preset.title}. {preset.about}") for name, preset in study_presets().items()]
        self.fields["preset"].choices = [*presets, (GRID, "A grid of your own, below.")]  # type: ignore[attr-defined]
        runs = Run.objects.visible_to(user).filter(study_cells=None).order_by("-created")[:50]
        own = [(f"run-{run.pk}", f"recipe of {run.name}") for run in runs]
        self.fields["base"].choices = [(MINI, "the built-in task mini_tldr"), *own, (OWN, "YAML, below")]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """Make the study, or put the reason why it cannot be where it belongs."""
        values = super().clean() or {}
        if self.errors:
            return values
        base = self._field("base", self._base)
        seeds = self._field("seeds", lambda: studies.parse_seeds(values["seeds"]))
        grid = self._field("grid", lambda: read_grid(values["grid"]))
        if base is not None and seeds is not None and grid is not None:
            self._make(base, seeds, grid)
        return values

    def _field(self, name: str, read: Any) -> Any:
        try:
            return read()
        except UserError as error:
            self.add_error(name, str(error))
            return None

    def _base(self) -> RunConfig:
        chosen = self.cleaned_data["base"]
        if chosen == MINI:
            return mini_base(self.cleaned_data["preset"])
        if chosen == OWN:
            return parse_run_config(self.cleaned_data["recipe"])
        run = Run.objects.visible_to(self.user).get(pk=int(chosen.removeprefix("run-")))
        return RunConfig.model_validate(run.config)

    def _make(self, base: RunConfig, seeds: list[int], grid: dict[str, list[Any]]) -> None:
        name, preset = self.cleaned_data["name"], self.cleaned_data["preset"]
        try:
            if preset:
                tuned = mini_tuned() if self.cleaned_data["base"] == MINI else {}
                made = preset_study(preset, base=base, seeds=seeds, title=name, tuned=tuned)
                values = made.model_dump(mode="json")
                values["grid"] |= grid
                self.study = studies.study_of(values)
            else:
                values = {"name": name or "Grid", "base": base.model_dump(mode="json"), "seeds": seeds, "grid": grid}
                self.study = studies.study_of(values)
        except UserError as error:
            raise ValidationError(str(error)) from error


def read_grid(text: str) -> dict[str, list[Any]]:
    """Return a grid written in YAML: paths of settings with lists of values. Raises UserError."""
    try:
        values = read_yaml(text) or {}
    except yaml.YAMLError as error:
        message = f"the grid is not valid YAML: {error}. Write lines like fitting.gamma: [0.05, 0.5]"
        raise UserError(message) from error
    if not isinstance(values, dict):
        message = f"a grid is lines like fitting.gamma: [0.05, 0.5], received {text[:80]!r}"
        raise UserError(message)
    return {str(path): _listed(value) for path, value in values.items()}


def _listed(value: Any) -> list[Any]:
    found = value if isinstance(value, list) else [value]
    return ["inf" if item == float("inf") else item for item in found]


class ExtendForm(forms.Form):
    """More seeds, or more values of the grid."""

    seeds = forms.CharField(label="More seeds", required=False, max_length=200, help_text="Numbers and ranges: 5-9.")
    grid = forms.CharField(
        label="More values", required=False, max_length=20_000, widget=forms.Textarea(attrs={**_MONO, "rows": 2}),
        help_text="Of settings that the grid is over: rejection_sampling.beta: [1, 2].",
    )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        """Read both."""
        values = super().clean() or {}
        for name, read in (("seeds", studies.parse_seeds), ("grid", read_grid)):
            try:
                values[name] = read(values.get(name, ""))
            except UserError as error:
                self.add_error(name, str(error))
        return values
