"""Who imports whom, what is never loaded from outside, and what is never run from a download."""

import ast
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rso_core

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "datasets", "peft", "gguf")
LIGHT_MODULES = (
    "config",
    "plan",
    "run_data",
    "artifacts",
    "protocol",
    "vocabulary",
    "errors",
    "importers",
    "configuration_page",
)


def run_python(code: str, tmp_path: Path) -> Any:
    """Run code in a fresh interpreter and return what it prints as JSON."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "webapp.settings", "RSO_VAR_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LOADED = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


# Imports


def test_the_web_application_starts_without_the_libraries_of_models_and_without_the_workers(tmp_path: Path) -> None:
    code = (
        "import django; django.setup()\n"
        "from django.urls import get_resolver; get_resolver().url_patterns\n"
        "import webapp.wsgi, webapp.asgi\n" + LOADED
    )
    loaded = run_python(code, tmp_path)
    assert "webapp" in loaded
    assert not {*HEAVY, "workers"} & set(loaded)


def test_workers_supervise_without_the_libraries_of_models(tmp_path: Path) -> None:
    loaded = run_python("from workers.app import app; app.loader.import_default_modules()\n" + LOADED, tmp_path)
    assert "celery" in loaded
    assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_the_schema_the_plan_and_the_importers_stay_light(name: str, tmp_path: Path) -> None:
    assert not set(HEAVY) & set(run_python(f"import rso_core.{name}\n" + LOADED, tmp_path))


def test_the_method_is_a_library_without_django_celery_and_the_web_application(tmp_path: Path) -> None:
    names = [f"rso_core.{module.name}" for module in pkgutil.iter_modules(rso_core.__path__)]
    assert len(names) > 20
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n" + LOADED
    loaded = run_python(code, tmp_path)
    assert "torch" in loaded
    assert not {"django", "celery", "kombu", "psycopg2", "webapp", "workers"} & set(loaded)


def test_importing_the_package_alone_imports_nothing_else(tmp_path: Path) -> None:
    code = "import rso_core, sys, json; print(json.dumps([n for n in sys.modules if n.startswith('rso_core.')]))"
    assert run_python(code, tmp_path) == []


# Messages


def calls(folder: str, name: str) -> Iterator[tuple[Path, ast.AST, ast.Call]]:
    """Yield (file, enclosing function, call) of every call of a method or function called `name`."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]:
            for node in _own_nodes(scope):
                if isinstance(node, ast.Call) and _called(node) == name:
                    yield path, scope, node


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a scope that are in no function of their own inside it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from _own_nodes(child)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def test_every_task_that_the_web_application_sends_is_one_that_workers_know(tmp_path: Path) -> None:
    """Celery accepts unknown names silently: their messages would wait for ever."""
    sent = [(path.relative_to(ROOT).as_posix(), call) for path, _, call in calls("webapp", "send_task")]
    assert {path for path, _ in sent} == {"webapp/runs/queue.py"}
    constants = {call.args[0].id for _, call in sent if isinstance(call.args[0], ast.Name)}
    assert len(constants) == len({ast.dump(call.args[0]) for _, call in sent})
    code = (
        "import json\n"
        "from workers.app import app\n"
        "from webapp.runs import queue\n"
        "app.loader.import_default_modules()\n"
        f"wanted = [getattr(queue, name) for name in {sorted(constants | {'REAP'})!r}]\n"
        "wanted += [entry['task'] for entry in app.conf.beat_schedule.values()]\n"
        "print(json.dumps({name: name in app.tasks for name in wanted}))"
    )
    known = run_python(code, tmp_path)
    assert known["execute_stage"]
    assert all(known.values()), known


# Nothing from other hosts

# What makes a browser fetch something: links that a person follows are not among them.
LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object|form|use|image)\b[^>]*?\b(?:src|srcset|data|action|href)\s*=\s*["']?\s*(?P<tag>(?:https?:)?//[^"'\s>]+)
    |<link\b[^>]*?\bhref\s*=\s*["']?\s*(?P<link>(?:https?:)?//[^"'\s>]+)
    |\bhx-(?:get|post|put|delete|patch)\s*=\s*["']?\s*(?P<htmx>(?:https?:)?//[^"'\s>]+)
    |\burl\(\s*["']?\s*(?P<url>(?:https?:)?//[^"')]+)
    |@import\s+["']?\s*(?P<css>(?:https?:)?//[^"']+)""",
    re.VERBOSE | re.IGNORECASE,
)
IN_SCRIPTS = re.compile(r"""["'`](?P<script>(?:https?:|wss?:)?//[\w.-]+[^"'`]*)["'`]""")
NAMESPACE = "http://www.w3.org/"


def page_files(*endings: str) -> list[Path]:
    found = [path for folder in ("templates", "webapp/static") for path in (ROOT / folder).rglob("*")]
    return [path for path in found if path.suffix in endings and ".min." not in path.name]


def test_the_rule_about_other_hosts_sees_what_it_should() -> None:
    for loading in (
        '<script src="https://cdn.example/x.js">',
        "<img class='a' src=//cdn.example/x.png>",
        '<link rel="stylesheet" href="https://fonts.example/x">',
        "background: url('https://x.example/y.png')",
        '@import "//x.example/y.css"',
        '<div hx-get="https://x.example/">',
    ):
        assert LOADS.search(loading), loading
    for harmless in ('<a href="https://arxiv.org/abs/2309.06657">', '<script src="/static/x.js">', "url(#gradient)"):
        assert not LOADS.search(harmless), harmless
    assert IN_SCRIPTS.search('fetch("https://x.example/y")')


def test_no_page_loads_anything_from_another_host() -> None:
    files = page_files(".html", ".css", ".svg", ".js", ".txt")
    assert len(files) > 10
    found = {str(path): LOADS.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {path: hits for path, hits in found.items() if hits} == {}


def test_no_script_of_ours_names_another_host() -> None:
    for path in page_files(".js"):
        named = [match["script"] for match in IN_SCRIPTS.finditer(path.read_text(encoding="utf-8"))]
        assert [name for name in named if not name.startswith(NAMESPACE)] == [], path


# Nothing is run from a download


def keywords(scope: ast.AST, call: ast.Call) -> dict[str, ast.expr]:
    """Return the keyword arguments of a call, with those of `**name` where the name is a dict written nearby."""
    found = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    spread = {k.value.id for k in call.keywords if k.arg is None and isinstance(k.value, ast.Name)}
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Dict):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id in spread for target in targets):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            found |= {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}
    return found


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_models_are_read_from_local_safetensors_and_never_run_their_own_code() -> None:
    sites = list(calls("rso_core", "from_pretrained"))
    assert len(sites) >= 3
    for path, scope, call in sites:
        given, where = keywords(scope, call), f"{path.name}:{call.lineno}"
        assert is_constant(given.get("trust_remote_code"), value=False), f"{where}: trust_remote_code=False"
        assert is_constant(given.get("local_files_only"), value=True), f"{where}: local_files_only=True"
        receiver = ast.unparse(call.func)
        if not receiver.startswith(("AutoConfig", "AutoTokenizer", "GenerationConfig")):
            safe = is_constant(given.get("use_safetensors"), value=True) or "gguf_file" in given
            assert safe, f"{where}: use_safetensors=True, or a GGUF file"


@pytest.mark.parametrize("folder", ["webapp", "workers"])
def test_only_the_method_reads_models(folder: str) -> None:
    assert list(calls(folder, "from_pretrained")) == []


def test_nothing_is_unpickled_or_evaluated() -> None:
    for folder in ("rso_core", "webapp", "workers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            assert not names & {"pickle", "dill", "marshal", "shelve"}, path
        assert [path for path, _, call in calls(folder, "eval") if isinstance(call.func, ast.Name)] == []
        assert [path for path, _, call in calls(folder, "exec") if isinstance(call.func, ast.Name)] == []
    for path, _, call in calls("rso_core", "load"):
        if ast.unparse(call.func) == "torch.load":
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            assert is_constant(given.get("weights_only"), value=True), f"{path.name}:{call.lineno}: weights_only=True"
