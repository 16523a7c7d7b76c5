"""The form of a new run, made from the schema: `rso_core.config.RunConfig` is the one definition.

Every leaf of the schema is a field named by its path (`fitting.gamma`). Texts go to the schema as they were typed
and its errors come back beside the fields, so limits and types are stated once. An empty field means the default,
which is the paper's value.
"""

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args, get_origin

from django import forms
from django.forms.boundfield import BoundField
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rso_core.config import PRESETS, RunConfig, recipe_values, with_preset
from webapp.runs.long_select import LongSelect

Choices = list[tuple[str, str]]

# The few settings that matter first; all others are folded, by stage.
ESSENTIALS = (
    "name",
    "task",
    "data.preferences",
    "data.sft",
    "model.base",
    "pairs.pair_source",
    "fitting.loss",
    "rejection_sampling.beta",
    "fitting.gamma",
)
SECTIONS = {
    "": "Seed",
    "data": "Data and splits",
    "model": "Model",
    "sft": "SFT",
    "reward": "Reward model",
    "gold_reward": "Gold reward model",
    "objectives": "Several objectives",
    "sampling": "Sampling",
    "rejection_sampling": "Rejection sampling",
    "pairs": "Pairs",
    "fitting": "Policy fitting",
    "rounds": "Rounds",
    "evaluation": "Evaluation",
    "judge": "AutoSxS judge",
}
LABELS = {
    "rejection_sampling.beta": "β, temperature of the target policy",
    "fitting.gamma": "γ, slope of the loss",
    "fitting.delta": "δ, margin of slic",
    "fitting.regularizer": "λ, weight of slic’s regulariser",
    "fitting.enabled": "Fit a policy",
    "data.preferences": "Preference dataset",
    "data.sft": "SFT dataset",
    "data.prompts": "Prompts of another dataset",
    "model.base": "Base model",
    "sft.enabled": "Train π_sft",
}
_OPTIONAL_MODELS = frozenset({"reward.model", "gold_reward.model", "judge.model"})
_MODELS = _OPTIONAL_MODELS | {"model.base"}
_ENDPOINTS = frozenset({"judge.endpoint", "sampling.endpoint"})
_OPTIONAL_DATASETS = frozenset({"gold_reward.preferences"})
_BOOLEANS = {"true": "on", "false": "off"}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_WANTED = {
    "missing": "is required",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "extra_forbidden": "is not a setting",
}


@dataclass(frozen=True)
class References:
    """The datasets and models a person may name in a run, as (name, label) choices."""

    preferences: Choices = field(default_factory=list)
    sft: Choices = field(default_factory=list)
    models: Choices = field(default_factory=list)
    endpoints: Choices = field(default_factory=list)

    def choices(self, path: str) -> Choices | None:
        """Return the choices of the field at `path`, or None when it names no dataset or model."""
        by_path = {"data.preferences": self.preferences, "data.sft": self.sft, "model.base": self.models}
        if path in _OPTIONAL_MODELS:
            return [("", "none"), *self.models]
        if path in _ENDPOINTS:
            return [("", "none"), *self.endpoints]
        if path in _OPTIONAL_DATASETS:
            return [("", "none"), *self.preferences]
        if path == "data.prompts":
            return [("", "those of the SFT dataset"), *self.sft]
        return by_path.get(path)


def schema_fields(schema: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the path and the definition of every leaf of the schema, in order."""
    for name, info in schema.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from schema_fields(info.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def text_of(value: object) -> str:
    """Return a setting as the text a form shows and the schema reads back to the same value."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as {path: text}."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: text_of(value)}
    return flat


def nest(flat: Mapping[str, str]) -> dict[str, Any]:
    """Return {path: text} as nested settings, without the empty ones."""
    nested: dict[str, Any] = {"data": {}, "model": {}}  # required parts: their missing leaves are to be named
    for path, text in flat.items():
        if text == "":
            continue
        *parents, name = path.split(".")
        part = nested
        for parent in parents:
            part = part.setdefault(parent, {})
        part[name] = text
    return nested


def form_data(config: RunConfig) -> dict[str, str]:
    """Return what a browser would post for `config`."""
    return flatten(config.model_dump())


def read_recipe(text: str) -> dict[str, str]:
    """Return the settings written in YAML as {path: text}, right or wrong. Raises UserError when it is not YAML."""
    return flatten(with_preset(recipe_values(text)))


def describe_error(item: Mapping[str, Any], paper: str) -> str:
    """Return one of pydantic's errors as a sentence: what is required, what was received, what to do."""
    wanted = _WANTED.get(item["type"])
    text = wanted.format(**item.get("ctx", {})) if wanted else item["msg"].removeprefix("Value error, ")
    if item["type"] in {"missing", "value_error"}:
        return f"{text[0].upper()}{text[1:]}."
    advice = f" The paper’s value is {paper}." if paper else ""
    return f"{text[0].upper()}{text[1:]}, received {item['input']!r}.{advice}"


def _limits(info: FieldInfo) -> str:
    """Return the limits of a number for people: "more than 0, at most 1"."""
    found = [
        f"{words} {getattr(limit, name):,}"
        for limit in info.metadata
        for name, words in _BOUNDS.items()
        if hasattr(limit, name)
    ]
    return ", ".join(found)


def _default(info: FieldInfo) -> str:
    return "" if info.is_required() else text_of(info.default)


def _choices(info: FieldInfo) -> Choices | None:
    """Return the choices of a closed setting with the paper's marked, or None for an open one."""
    if info.annotation is bool:
        options = dict(_BOOLEANS)
    elif get_origin(info.annotation) is Literal:
        options = {value: value for value in get_args(info.annotation)}
    else:
        return None
    default = _default(info)
    blank = [("", "choose …")] if info.is_required() else []
    return blank + [(key, f"{word} · the paper’s" if key == default else word) for key, word in options.items()]


def _form_field(path: str, info: FieldInfo, references: References) -> forms.Field:
    name = path.rpartition(".")[2]
    default = _default(info)
    known = references.choices(path)
    choices = known if known is not None else _choices(info)
    widget: forms.Widget
    if choices is not None:
        blank = [("", "choose …")] if known is not None and info.is_required() else []
        widget = LongSelect(choices=blank + choices)
    elif isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("multiline"):
        widget = forms.Textarea(attrs={"rows": 6, "spellcheck": "false"})
    else:
        # Not type="number": browsers send an empty text for what they cannot read, and it would pass as the default.
        mode = "numeric" if info.annotation is int else "decimal" if info.annotation is float else "text"
        widget = forms.TextInput(attrs={"inputmode": mode, "placeholder": default, "autocomplete": "off"})
    label = LABELS.get(path, name.replace("_", " "))
    return forms.CharField(
        required=False,
        strip=False,
        label=label[0].upper() + label[1:] if label[0].isascii() else label,  # β and γ stay small
        help_text=info.description or "",
        widget=widget,
        initial=default if known is None and choices is not None else "",
    )


@dataclass(frozen=True)
class Item:
    """One field as the page shows it."""

    bound: BoundField
    path: str
    default: str
    limits: str
    changed: bool
    required: bool


@dataclass(frozen=True)
class Section:
    """The fields of one stage, folded together."""

    key: str
    title: str
    items: tuple[Item, ...]

    @property
    def changed(self) -> int:
        """Return how many fields differ from the paper's values."""
        return sum(item.changed for item in self.items)

    @property
    def wrong(self) -> int:
        """Return how many fields have an error."""
        return sum(bool(item.bound.errors) for item in self.items)


class RunForm(forms.Form):
    """A `RunConfig` being typed. After `is_valid()`, `config` is the configuration."""

    config: RunConfig

    def __init__(self, data: Mapping[str, str] | None = None, *, references: References, **kwargs: Any) -> None:
        self.schema = types.MappingProxyType(dict(schema_fields()))
        if data is not None:
            # A list without a value would show its first choice, which need not be the paper's.
            lists = {path: _default(info) for path, info in self.schema.items() if _choices(info) is not None}
            data = lists | dict(data.items())
        super().__init__(data, **kwargs)
        self.references = references
        for path, info in self.schema.items():
            self.fields[path] = _form_field(path, info, references)
        self._keep_unknown_references()

    def _keep_unknown_references(self) -> None:
        """Offer a name that was typed or loaded although nothing has it, so that it is not lost."""
        for path in self.fields:
            value = self[path].value()
            widget = self.fields[path].widget
            if value and isinstance(widget, forms.Select) and value not in dict(widget.choices):
                widget.choices = [*widget.choices, (value, f"{value} · unknown")]

    def clean(self) -> dict[str, Any]:
        """Validate against the schema; put each error beside its field."""
        cleaned: dict[str, Any] = self.cleaned_data
        for path in self.data:
            if path not in self.fields and path.partition(".")[0] in RunConfig.model_fields:
                self.add_error(None, f"`{path}` is not a setting; remove it from the recipe.")
        try:
            self.config = RunConfig.model_validate(nest(cleaned))
        except ValidationError as error:
            self._add_schema_errors(error)
        self._check_references(cleaned)
        return cleaned

    def _add_schema_errors(self, error: ValidationError) -> None:
        for item in error.errors(include_url=False):
            path = self._path_of(item)
            paper = _default(self.schema[path]) if path else ""
            self.add_error(path, describe_error(item, paper))

    def _path_of(self, item: Mapping[str, Any]) -> str | None:
        """Return the field an error belongs to: its place, or the first setting that its message names."""
        place = ".".join(str(part) for part in item["loc"])
        if place in self.fields:
            return place
        named = re.findall(r"`([\w.]+)`", item["msg"])
        paths = [f"{place}.{name}" if place else name for name in named]
        return next((path for path in paths if path in self.fields), None)

    def _check_references(self, cleaned: Mapping[str, str]) -> None:
        for path in self.fields:
            known = self.references.choices(path)
            name = cleaned.get(path, "")
            if known is None or not name or name in dict(known):
                continue
            names = ", ".join(value for value, _ in known if value) or "none yet"
            what = "endpoint" if path in _ENDPOINTS else "model" if path in _MODELS else "dataset"
            advice = (
                "An admin adds endpoints to the file that RSO_ENDPOINTS names."
                if path in _ENDPOINTS
                else "Import it first."
            )
            self.add_error(path, f"No {what} that you can use here is called {name!r}; known: {names}. {advice}")

    def _item(self, path: str) -> Item:
        info, bound = self.schema[path], self[path]
        default, value = _default(info), bound.value() or ""
        return Item(bound, path, default, _limits(info), value not in {"", default}, info.is_required())

    @cached_property
    def essentials(self) -> list[Item]:
        """Return the fields that are always visible."""
        return [self._item(path) for path in ESSENTIALS]

    @cached_property
    def sections(self) -> list[Section]:
        """Return the folded fields by stage."""
        folded = [path for path in self.fields if path not in ESSENTIALS]
        return [
            Section(key or "seed", title, tuple(self._item(p) for p in folded if p.rpartition(".")[0] == key))
            for key, title in SECTIONS.items()
        ]

    @cached_property
    def preset(self) -> str:
        """Return the name of the paper's preset that the present values are, or "own"."""
        for name in PRESETS:
            wanted = preset_data(name).items()
            if all((self[path].value() or _default(self.schema[path])) == text for path, text in wanted):
                return name
        return "own"


def prefill(values: Mapping[str, str]) -> dict[str, str]:
    """Return settings as a form shows them: the paper's value of a text field is left to its placeholder."""
    open_texts = {path: _default(info) for path, info in schema_fields() if _choices(info) is None}
    return {path: text for path, text in values.items() if not text or open_texts.get(path) != text}


def preset_data(name: str) -> dict[str, str]:
    """Return what a preset writes into the form; settings that only other presets change go back to the default."""
    schema = dict(schema_fields())
    touched = {path for parts in PRESETS.values() for path in flatten(parts)}
    return {path: _default(schema[path]) for path in touched} | flatten(PRESETS[name])
