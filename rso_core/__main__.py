"""The command line: `python -m rso_core run recipe.yaml`, without Django or Celery.

Commands: `run`, `study`, `plan`, `check`, `import`, `export`. What a person got wrong is told in one sentence with exit code 2.
Ctrl-C leaves everything finished in the store; the same command goes on from there.
"""

# ruff: noqa: T201 - a command line prints

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rso_core.artifacts import ArtifactStore
from rso_core.config import RunConfig, load_run_config
from rso_core.demo import changed
from rso_core.errors import RsoError, UserError
from rso_core.references import check
from rso_core.studies import Study, extended, parse_seeds, parse_study, study_of
from rso_core.study_presets import mini_base, mini_tuned, preset_study, study_presets
from rso_core.yaml_text import read_yaml

if TYPE_CHECKING:
    from rso_core.local_run import LocalRun

DEFAULT_STORE = "rso-store"
_INTERRUPTED = 130
_MADE = (("policy", "checkpoint_selection"), ("pairs", "pairs"), ("targets", "targets"), ("report", "report"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    options = _parser().parse_args(arguments)
    set_threads(getattr(options, "workers", 1))
    try:
        options.command(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except RsoError as error:
        print(f"{error}; start the same command again to go on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; start the same command again to go on", file=sys.stderr)
        return _INTERRUPTED
    return 0


def set_threads(workers: int) -> None:
    """Let every library use the same number of threads: with another number, digests may differ."""
    threads = os.environ.setdefault("RSO_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    os.environ["OMP_NUM_THREADS"] = threads
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rso_core", description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function, text in (
        ("run", _run, "execute a recipe; goes on where an earlier start ended"),
        ("plan", _plan, "import what a recipe names and list its stages"),
        ("check", _check, "say what is wrong with a recipe, without importing anything"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("recipe", type=Path, help="YAML file of the settings")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="replace a setting: --set fitting.gamma=0.1",
        )
        _add_store(command)
        command.set_defaults(command=function)
    command = commands.add_parser("import", help="import data files or model folders and show what was kept")
    command.add_argument("files", nargs="+", metavar="FILE", help="data file, model folder, GGUF file, or mini_tldr")
    command.add_argument("--kind", choices=["preference", "sft", "prompts", "model"], required=True)
    command.add_argument("--layout", default="auto", help="layout of a data file (default: auto)")
    _add_store(command)
    command.set_defaults(command=_import)
    command = commands.add_parser(
        "export", help="write policy, pairs and candidates of a finished run for other programs"
    )
    command.add_argument("record", type=Path, help="the record of the run, which `run` names under details")
    command.add_argument(
        "--to", type=Path, required=True, help="folder to write; what exists in it is not written over"
    )
    command.add_argument("--push", metavar="OWNER/NAME", help="push to the Hugging Face hub too (HF_TOKEN), privately")
    command.add_argument("--public", action="store_true", help="with --push: new repositories are for everybody to see")
    _add_store(command)
    command.set_defaults(command=_export)
    _add_study(commands.add_parser("study", help="execute a study: a table of the paper, a bundle, or a grid of yours"))
    return parser


def _add_study(command: argparse.ArgumentParser) -> None:
    command.description = "Execute what is missing of a study and write its bundle; see docs/studies.md."
    command.add_argument("study", help="a preset (table_1 …), a bundle (JSON), or a study's own YAML")
    command.add_argument("--base", type=Path, help="recipe that a preset starts from (default: the built-in task)")
    command.add_argument("--seeds", default="", help="seeds and ranges: --seeds 10-14; more ones extend a bundle")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="replace a setting of the base"
    )
    command.add_argument("--workers", type=int, default=1, help="processes that share the machine's threads")
    command.add_argument("--out", type=Path, help="where the bundle goes (default: in the store)")
    _add_store(command)
    command.set_defaults(command=_study)


def _add_store(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--store", type=Path, default=Path(DEFAULT_STORE), help=f"folder of artifacts (default: {DEFAULT_STORE})"
    )


def _load(options: argparse.Namespace) -> RunConfig:
    try:
        config = load_run_config(options.recipe)
    except (OSError, UnicodeDecodeError) as error:
        message = f"the recipe {options.recipe} cannot be read: {error}"
        raise UserError(message) from error
    return changed(config, dict(_setting(text) for text in options.set))


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        message = f"a setting is written NAME=VALUE, for example --set fitting.gamma=0.1; received {text!r}"
        raise UserError(message)
    return name, read_yaml(value) if value else ""  # YAML takes nothing for null


def _local_run(options: argparse.Namespace) -> "LocalRun":
    from rso_core.local_run import LocalRun

    return LocalRun(ArtifactStore(str(options.store)))


def _run(options: argparse.Namespace) -> None:
    from rso_core.local_run import exclusive

    config, run = _load(options), _local_run(options)
    with exclusive(run.store):
        done = run.run(config)
    print(_results(done["report"].summary))
    for what, key in _MADE:
        if key in done:
            print(f"{what + ':':<9} {run.store.path(done[key].digest)}")
    print(f"details:  {run.record_path(config)}")


def _results(summary: dict[str, Any]) -> str:
    """Return win rates against the SFT targets, and their paired difference, as lines."""
    lines = [f"{'% of test prompts won':<24}{'proxy':>22}{'gold':>22}"]
    for name, part in (("SFT", "sft"), ("policy", "policy"), ("policy − SFT, paired", "difference")):
        lines.append(f"{name:<24}" + "".join(f"{_interval(summary[part][metric]):>22}" for metric in ("proxy", "gold")))
    return "\n".join(lines)


def _interval(value: dict[str, float] | None) -> str:
    if value is None:
        return "–"
    return f"{value['value']:.1%} [{value['low']:.1%}, {value['high']:.1%}]"


def _study(options: argparse.Namespace) -> None:
    from rso_core.local_run import exclusive
    from rso_core.study_bundle import make_bundle, summary_lines
    from rso_core.study_run import run_study

    study, store = _load_study(options), ArtifactStore(str(options.store))
    with exclusive(store):
        records = run_study(study, store, workers=options.workers)
        bundle = make_bundle(study, records, store)
    out = options.out or store.root / "studies" / f"{study.preset or 'study'}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bundle, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n".join(summary_lines(bundle)))
    print(f"bundle:   {out}")


def _load_study(options: argparse.Namespace) -> Study:
    """Return the study that the command line asks for."""
    seeds, changes = parse_seeds(options.seeds), dict(_setting(text) for text in options.set)
    if options.study in study_presets():
        base = load_run_config(options.base) if options.base else mini_base(options.study)
        tuned = {} if options.base else mini_tuned(but=changes)
        return preset_study(options.study, base=changed(base, changes), seeds=seeds or [0], tuned=tuned)
    try:
        study = parse_study(Path(options.study).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        message = f"{options.study} is no preset ({', '.join(study_presets())}) and cannot be read as a file: {error}"
        raise UserError(message) from error
    values = study.model_copy(update={"base": changed(study.base, changes)})
    return extended(study_of(values.model_dump(mode="json")), seeds=seeds)


def _plan(options: argparse.Namespace) -> None:
    from rso_core.local_run import exclusive

    config, run = _load(options), _local_run(options)
    with exclusive(run.store):
        plan = run.plan(config)
    for stage in plan.stages:
        state = "done" if run.ledger.get(stage.fingerprint) else ""
        print(f"{stage.key:<22} {stage.fingerprint[:12]}  {state:<5} {stage.work}")
    for name, count in plan.counts.items():
        print(f"{count:>12,} {name.replace('_', ' ')}")
    for warning in plan.warnings:
        print(f"warning: {warning}")


def _export(options: argparse.Namespace) -> None:
    from rso_core.exports import export_run
    from rso_core.hub_push import check_destination, push

    if options.push:
        check_destination(options.push)  # before gigabytes are written
    try:
        record = json.loads(options.record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"the record {options.record} cannot be read: {error}; name the file that `run` names under details"
        raise UserError(message) from error
    folders = export_run(record, ArtifactStore(str(options.store)), options.to)
    for what, folder in folders.items():
        print(f"{what + ':':<12} {folder}")
    if options.push:
        for what, address in push(folders, options.push, public=options.public).items():
            print(f"{what + ':':<12} {address}")


def _check(options: argparse.Namespace) -> None:
    config = _load(options)
    check(config)
    print(f"{options.recipe}: {config.name!r} is complete, and what it names exists")


def _import(options: argparse.Namespace) -> None:
    from rso_core.local_run import exclusive

    run = _local_run(options)
    with exclusive(run.store):
        for file in options.files:
            finished = _import_one(run, file, options.kind, options.layout)
            print(f"{file}: artifact {finished}")
            _say_rejected(run, finished)


def _say_rejected(run: "LocalRun", digest: str) -> None:
    """Say where the rejected rows of a dataset are listed, if there are any."""
    from rso_core.importers import REJECTS

    (rejects,) = run.store.files(digest, REJECTS)
    if rejects.exists() and rejects.stat().st_size:
        print(f"    the rejected rows, each with its line and reason: {rejects}")


def _import_one(run: "LocalRun", file: str, kind: Any, layout: str) -> str:
    if kind == "model":
        return run.references.model(file)
    return run.references.dataset(file, kind, layout=layout)


if __name__ == "__main__":
    sys.exit(main())
