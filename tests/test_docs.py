"""The documents tell the truth: what they name exists, and what exists is in them."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from rso_core.config import LossName, PairSource, Ranking, RunConfig
from rso_core.configuration_page import page
from rso_core.losses import LOSSES

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md")])
PAPER = ROOT / "docs" / "paper.md"

# `rso_core/losses.py::hinge_loss`, `tests/rso_core/test_losses.py::test_known_answers`
NAMED = re.compile(r"`([\w./-]+\.py)::([\w.]+)`")
OURS = ("rso_core", "webapp", "workers", "templates", "tests", "deploy", "docs", "benchmarks", "requirements", ".ci")
PATH = re.compile(rf"`((?:{'|'.join(map(re.escape, OURS))})/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")
MAKE = re.compile(r"`(?:[A-Z_]+=\S+ )*make ([a-z][a-z-]*)")


def doc_ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def defined_in(path: Path) -> set[str]:
    """Return the functions, classes, methods (`Class.method`) and constants that a module defines."""
    found: set[str] = set()
    for node in ast.parse(text_of(path)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
            found |= {
                f"{node.name}.{item.target.id}"
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def settings_of(schema: type[BaseModel], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, field in schema.model_fields.items():
        kind = field.annotation
        part = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += settings_of(kind, f"{prefix}{name}.") if part else [prefix + name]  # type: ignore[arg-type]
    return found


def test_the_page_of_settings_is_the_one_made_from_the_schema() -> None:
    how = "run `make docs`"
    assert text_of(ROOT / "docs" / "configuration.md") == page(), how


@pytest.mark.parametrize("name", settings_of(RunConfig))
def test_every_setting_is_documented_with_a_sentence(name: str) -> None:
    row = re.search(rf"^\| `{re.escape(name)}` \|.*\| (.+) \|$", page(), re.MULTILINE)
    assert row is not None, f"{name} is in no row of docs/configuration.md"
    assert row[1].endswith("."), f"the description of {name} is no sentence: {row[1]!r}"


@pytest.mark.parametrize("path", DOCS, ids=doc_ids)
def test_every_function_and_test_that_a_document_names_exists(path: Path) -> None:
    for file, name in NAMED.findall(text_of(path)):
        assert (ROOT / file).is_file(), f"{file} does not exist"
        assert name in defined_in(ROOT / file), f"{file} defines no {name}"


@pytest.mark.parametrize("path", DOCS, ids=doc_ids)
def test_every_file_that_a_document_names_exists(path: Path) -> None:
    for name in PATH.findall(text_of(path)):
        assert (ROOT / name).exists(), f"{name} does not exist"


@pytest.mark.parametrize("path", DOCS, ids=doc_ids)
def test_every_link_inside_the_repository_leads_somewhere(path: Path) -> None:
    for target in LINK.findall(text_of(path)):
        assert (path.parent / target).exists(), f"{target} does not exist"


@pytest.mark.parametrize("path", DOCS, ids=doc_ids)
def test_every_make_target_that_a_document_names_exists(path: Path) -> None:
    known = set(re.findall(r"^([a-z][a-z-]*):", text_of(ROOT / "Makefile"), re.MULTILINE))
    assert set(MAKE.findall(text_of(path))) <= known


def test_every_equation_of_the_paper_has_a_row() -> None:
    rows = "\n".join(line for line in text_of(PAPER).splitlines() if line.startswith("|"))
    for number in range(1, 11):
        assert re.search(rf"^\| \({number}\)", rows, re.MULTILINE), f"eq. {number} has no row"
    for other in ("Algorithm 1", "Theorem 1", "Table 7"):
        assert re.search(rf"^\| {other}", rows, re.MULTILINE), f"{other} has no row"


def test_every_row_that_names_a_function_names_a_test() -> None:
    for line in text_of(PAPER).splitlines():
        files = [file for file, _ in NAMED.findall(line)] if line.startswith("|") else []
        if any(file.startswith("rso_core/") for file in files):
            assert any(file.startswith("tests/") for file in files), line


def test_every_name_of_a_loss_a_pair_source_and_a_ranking_is_explained() -> None:
    text = text_of(PAPER)
    assert set(LOSSES) == set(get_args(LossName))
    for name in (*get_args(LossName), *get_args(PairSource), *get_args(Ranking)):
        assert f"`{name}`" in text, name
    for function in LOSSES.values():
        assert f"`rso_core/losses.py::{function.__name__}`" in text  # type: ignore[attr-defined]


def test_no_document_holds_an_open_end() -> None:
    for path in DOCS:
        assert not re.search(r"\b(?:TODO|FIXME|TBD|XXX)\b", text_of(path)), path
