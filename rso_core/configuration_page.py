"""Write `docs/configuration.md` from the schema, so that help texts, limits and defaults stand in one place.

python -m rso_core.configuration_page > docs/configuration.md
"""

import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rso_core.config import PRESETS, RunConfig

_INTRODUCTION = """# Configuration

Every setting of a run. The form, the recipe (YAML), the API and the workers read the same schema,
`rso_core/config.py`; this page is made from it by `make docs`.
Names and defaults are the paper's (arXiv:2309.06657). A recipe holds `name`, `task`, `data` and `model`; everything
else may be left out. Unknown names, NaN and infinity are refused (`rejection_sampling.beta` may be `.inf`).
"""


def page() -> str:
    """Return the page as Markdown: the settings of the run itself, then one section a part."""
    parts = {name: part for name, field in RunConfig.model_fields.items() if (part := _part(field)) is not None}
    sections = [_INTRODUCTION, _section("The run", "", RunConfig, skip=frozenset(parts))]
    sections += [_section(f"`{name}`", f"{name}.", part) for name, part in parts.items()]
    return "\n".join([*sections, _presets()])


def _part(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _section(title: str, prefix: str, model: type[BaseModel], *, skip: frozenset[str] = frozenset()) -> str:
    summary = " ".join((model.__doc__ or "").split())
    lines = [f"## {title}", "", summary, "", "| setting | default | values | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name not in skip:
            cells = (f"`{prefix}{name}`", _default(field), _values(field), field.description or "")
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, float):
        return f"{field.default:g}"
    return str(field.default) or "empty"


def _values(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if kind is bool:
        return "true, false"
    return ", ".join([{str: "text", int: "whole number", float: "number"}[kind], *_limits(field.metadata)])


def _limits(metadata: list[Any]) -> Iterator[str]:
    for limit in metadata:
        match limit:
            case Ge(ge=value):
                yield f"≥ {value:,.10g}"
            case Gt(gt=value):
                yield f"> {value:,.10g}"
            case Le(le=value):
                yield f"≤ {value:,.10g}"
            case Lt(lt=value):
                yield f"< {value:,.10g}"
            case MinLen(min_length=value):
                yield "not empty"
            case MaxLen(max_length=value):
                yield f"at most {value} characters"


def _presets() -> str:
    lines = ["## Presets", "", "What the presets of the form set; all else stays at its default.", ""]
    for name, parts in PRESETS.items():
        values = [f"`{part}.{key}`: {value}" for part, settings in parts.items() for key, value in settings.items()]
        lines.append(f"- **{name}**: {', '.join(values)}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(page())
