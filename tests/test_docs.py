"""The documents tell the truth: what they name exists, and what exists is in them."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from rso_core.config import FittingLoss, LossName, Ranking, RunConfig, TrainingSource, load_run_config
from rso_core.configuration_page import page
from rso_core.losses import LOSSES
from rso_core.study_presets import study_presets

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


def rows_of(beginning: str) -> list[str]:
    """Return the rows of the paper's document whose first cell begins with these words."""
    return [line for line in text_of(PAPER).splitlines() if re.match(rf"\| {re.escape(beginning)}(?![\w.])", line)]


def names_function_and_test(line: str) -> bool:
    files = [file for file, _ in NAMED.findall(line)]
    return any(file.startswith("rso_core/") for file in files) and any(file.startswith("tests/") for file in files)


@pytest.mark.parametrize("what", [*(f"({number})" for number in range(1, 11)), "Algorithm 1", "Theorem 1"])
def test_every_equation_of_the_paper_has_a_function_and_a_test(what: str) -> None:
    assert any(names_function_and_test(line) for line in rows_of(what)), f"{what} has no row with a function and a test"


@pytest.mark.parametrize("number", range(1, 8))
def test_every_table_of_the_paper_has_a_function_a_test_and_what_to_run(number: int) -> None:
    rows = [line for line in rows_of(f"Table {number}") if names_function_and_test(line)]
    assert rows, f"Table {number} has no row with a function and a test"
    # People make Table 4; all others are studies, by a preset or by a setting that is named.
    launched = [name for line in rows for name in re.findall(r"`([a-z_0-9.]+)`", line.split(" | ")[1])]
    known = {*study_presets(), *settings_of(RunConfig)}
    assert set(launched) & known or number == 4, f"Table {number} names nothing that can be run: {launched}"


SYSTEMS = ("RSO", "DPO", "SLiC-HF direct", "SLiC-HF sample-rank", "RAFT", "ReST", "coin labels", "best-of-N")


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_a_function_a_test_and_a_recipe(system: str) -> None:
    rows = rows_of(system)
    assert any(names_function_and_test(line) for line in rows), f"{system} has no row with a function and a test"
    recipes = [name for line in rows for name in PATH.findall(line) if name.endswith(".yaml")]
    assert recipes, f"{system} names no recipe"
    for name in recipes:
        load_run_config(ROOT / name)


def test_every_recipe_of_a_system_is_in_the_document() -> None:
    for path in (ROOT / "rso_core" / "recipes" / "systems").glob("*.yaml"):
        assert f"`{path.relative_to(ROOT).as_posix()}`" in text_of(PAPER), path.name


def test_every_row_that_names_a_function_names_a_test() -> None:
    for line in text_of(PAPER).splitlines():
        files = [file for file, _ in NAMED.findall(line)] if line.startswith("|") else []
        if any(file.startswith("rso_core/") for file in files):
            assert any(file.startswith("tests/") for file in files), line


def test_every_name_of_a_loss_a_pair_source_and_a_ranking_is_explained() -> None:
    text = text_of(PAPER)
    assert set(LOSSES) == set(get_args(LossName))
    for name in (*get_args(FittingLoss), *get_args(TrainingSource), *get_args(Ranking)):
        assert f"`{name}`" in text, name
    for function in LOSSES.values():
        assert f"`rso_core/losses.py::{function.__name__}`" in text  # type: ignore[attr-defined]


def test_no_document_holds_an_open_end() -> None:
    for path in DOCS:
        assert not re.search(r"\b(?:TODO|FIXME|TBD|XXX)\b", text_of(path)), path
