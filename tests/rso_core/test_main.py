"""The command line: the same plan and artifacts as everywhere, resumed when started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rso_core.__main__ import main
from rso_core.artifacts import ArtifactStore
from rso_core.config import load_run_config
from rso_core.demo import RECIPES, changed, demo_config, real_config
from rso_core.local_run import Ledger, exclusive
from rso_core.mini_tldr import generate_dataset
from rso_core.mini_tldr_model import write_base_model
from rso_core.plan import fingerprint_of
from rso_core.planner import build_plan
from rso_core.protocol import StageSpec
from rso_core.run_data import RunData
from rso_core.stages import execute

ROOT = Path(__file__).parents[2]
TINY = {
    "name": "tiny",
    "data.preferences": "mini_tldr:size=120,seed=1",
    "data.sft": "mini_tldr:size=80,seed=1",
    "data.test_fraction": 0.2,
    "data.validation_fraction": 0.1,
    "sft.max_steps": 4,
    "sft.batch_size": 8,
    "sft.checkpoint_every": 1,
    "reward.start_from": "sft",
    "reward.model": "",
    "reward.max_steps": 4,
    "reward.batch_size": 8,
    "reward.checkpoint_every": 1,
    "sampling.num_candidates": 6,
    "sampling.max_prompts": 4,
    "sampling.prompts_per_shard": 2,
    "rejection_sampling.num_samples": 4,
    "fitting.max_steps": 2,
    "fitting.checkpoint_every": 1,
    "evaluation.max_test_prompts": 6,
    "evaluation.max_validation_prompts": 3,
    "evaluation.bootstrap_draws": 200,
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSO_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    config = changed(
        demo_config("rso"), {**TINY, **{name.replace("__", "."): value for name, value in changes.items()}}
    )
    path.write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    return path


def record(store: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((store / "runs" / "tiny.json").read_text(encoding="utf-8"))
    return value


def digests(store: Path) -> dict[str, str]:
    return {key: stage["digest"] for key, stage in record(store)["stages"].items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe and the store in which it was run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    recipe, store = write_recipe(folder), folder / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSO_THREADS", "1")
        assert main(["run", str(recipe), "--store", str(store)]) == 0
    return recipe, store


def test_a_run_prints_win_rates_and_where_the_policy_is(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, store = finished
    assert main(["run", str(recipe), "--store", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "policy − SFT, paired" in printed
    policy = next(line for line in printed.splitlines() if line.startswith("policy:")).split(maxsplit=1)[1]
    assert (Path(policy) / "model" / "model.safetensors").is_file()


def test_a_finished_run_is_started_again_without_work(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, store = finished
    before = {path: path.stat().st_mtime_ns for path in (store / "finished").iterdir()}
    assert main(["run", str(recipe), "--store", str(store)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("[", "dataset", "model"))]
    assert len(lines) == 16 + 3
    assert all("done before" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in (store / "finished").iterdir()} == before
    assert not list((store / "staging").iterdir())
    assert not list((store / "checkpoints").iterdir())


def test_the_artifacts_are_those_of_the_stages_executed_by_hand(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, store = finished
    config = load_run_config(recipe)
    by_hand = ArtifactStore(str(tmp_path))

    def do(kind: str, settings: dict[str, Any], inputs: dict[str, str], **shard: int) -> str:
        fingerprint = fingerprint_of(kind, settings, inputs)
        spec = StageSpec(kind=kind, fingerprint=fingerprint, config=settings, inputs=inputs, **shard)
        return execute(spec, by_hand, lambda _event: None).digest

    data = {
        "p": do("import_dataset", {"kind": "preference", "mini_tldr": {"size": 120, "seed": 1}}, {}),
        "s": do("import_dataset", {"kind": "sft", "mini_tldr": {"size": 80, "seed": 1}}, {}),
    }
    base = do("import_model", {"mini_tldr": {"family": "causal", "seed": 0}}, {})
    named = changed(config, {"data.preferences": "p", "data.sft": "s", "model.base": "b"})
    done: dict[str, str] = {}
    for stage in build_plan(named, RunData(by_hand, data, {"b": base})).stages:
        inputs = stage.digests | {name: done[key] for name, key in stage.needs.items()}
        parts = [
            do(stage.kind, stage.config, inputs, shard_index=index, shard_count=stage.shards)
            for index in range(stage.shards)
        ]
        done[stage.key] = parts[0] if len(parts) == 1 else by_hand.commit_parts(parts, kind=stage.kind)
    assert done == digests(store)


@pytest.mark.parametrize(
    "moment",
    [pytest.param("sft", marks=pytest.mark.slow), "sampling", pytest.param("policy_fitting", marks=pytest.mark.slow)],
)
def test_a_run_killed_in_the_middle_goes_on_to_the_same_artifacts(
    finished: tuple[Path, Path], tmp_path: Path, moment: str
) -> None:
    recipe, whole = finished
    store = tmp_path / "store"
    command = [sys.executable, "-m", "rso_core", "run", str(recipe), "--store", str(store)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: has_begun(store, record(whole)["stages"][moment]["fingerprint"], moment), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (store / "runs").exists()
    assert main(["run", str(recipe), "--store", str(store)]) == 0
    assert digests(store) == digests(whole)


def has_begun(store: Path, fingerprint: str, moment: str) -> bool:
    if moment == "sampling":
        return (store / "finished" / f"{fingerprint}.0.json").exists()
    return any((store / "checkpoints" / fingerprint).glob("checkpoint-*.pt"))


def wait_for(condition: Any, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)


def test_an_interrupt_leaves_a_state_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rso_core.local_run.execute", interrupt)
    assert main(["run", str(write_recipe(tmp_path)), "--store", str(tmp_path / "store")]) == 130
    assert "start the same command again" in capsys.readouterr().err


def test_a_file_of_preferences_serves_as_targets_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps(row) for row in generate_dataset("preference", size=60)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join([*rows, "not JSON"]), encoding="utf-8")
    base = write_base_model(tmp_path / "base")
    recipe = write_recipe(tmp_path, data__preferences=str(file), data__sft=str(file), model__base=str(base))
    assert main(["plan", str(recipe), "--store", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr()
    assert "61 rows in, 60 kept, 1 rejected" in shown.err
    assert "sampling" in shown.out
    assert "4 prompts × 6 candidates" in shown.out


def test_a_model_folder_that_has_changed_is_imported_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", str(tmp_path / "base"), "--kind", "model", "--store", str(tmp_path / "store")]
    found: list[str] = []
    for seed in (0, 0, 1):
        if seed or not found:
            write_base_model(tmp_path / "base", seed=seed)
        assert main(command) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] != found[2]


def test_import_says_what_was_kept_and_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "target": "b"}\n{"prompt": "a"}\n', encoding="utf-8")
    assert main(["import", str(file), "--kind", "sft", "--store", str(tmp_path / "store")]) == 0
    said = capsys.readouterr()
    assert "2 rows in, 1 kept, 1 rejected" in said.err
    (rejects,) = [line.rpartition(": ")[2] for line in said.out.splitlines() if "rejected rows" in line]
    assert [json.loads(line)["line"] for line in Path(rejects).read_text(encoding="utf-8").splitlines()] == [2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__sft": "/nowhere/rows.jsonl"}, "no dataset at '/nowhere/rows.jsonl'"),
        ({"model__base": "/nowhere/model"}, "no model at '/nowhere/model'"),
        ({"data__sft": "mini_tldr:rows=5"}, "options of mini_tldr are size=…, seed=…"),
        ({"data__sft": "mini_tldr:size=many"}, "received 'size=many'"),
        ({"model__base": "mini_tldr:family="}, "received 'family='"),
    ],
)
def test_what_a_recipe_names_wrongly_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], said: str
) -> None:
    for command in ("check", "plan", "run"):
        recipe = write_recipe(tmp_path, **changes)
        assert main([command, str(recipe), "--store", str(tmp_path / "store")]) == 2
        shown = capsys.readouterr()
        assert said in shown.err
        assert shown.err.count("\n") == 1
        assert not shown.out


@pytest.mark.parametrize(
    ("text", "said"),
    [("name: [", "not valid YAML"), ("[]", "a mapping of settings"), ("name: x\ncolour: red", "colour: Extra inputs")],
)
def test_a_wrong_recipe_is_told_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    assert main(["check", str(recipe)]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_recipe_and_a_wrong_override_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    recipe = str(write_recipe(tmp_path))
    assert main(["check", recipe, "--set", "fitting.gamma"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    assert main(["check", recipe, "--set", "fitting.gamma=-1"]) == 2
    assert "fitting.gamma" in capsys.readouterr().err
    assert main(["check", recipe, "--set", "fitting.gamma=0.1"]) == 0


def test_two_runs_do_not_work_in_one_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(write_recipe(tmp_path))
    with exclusive(ArtifactStore(str(tmp_path / "store"))):
        assert main(["run", recipe, "--store", str(tmp_path / "store")]) == 2
    assert "another run is working in the store" in capsys.readouterr().err


def test_the_ledger_forgets_work_whose_artifact_is_gone(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    store = ArtifactStore(str(folder))
    stage = record(folder)["stages"]["report"]
    ledger = Ledger(store)
    assert ledger.get(stage["fingerprint"]) is not None
    kept = store.path(stage["digest"])
    kept.rename(folder / "away")
    try:
        assert ledger.get(stage["fingerprint"]) is None
    finally:
        (folder / "away").rename(kept)


def test_the_recipes_that_come_along_are_complete() -> None:
    for path in RECIPES.glob("*.yaml"):
        load_run_config(path)
    rso, dpo = demo_config("rso", 3), demo_config("dpo", 3)
    assert (rso.pairs.pair_source, dpo.pairs.pair_source) == ("rso_sample_rank", "direct")
    assert rso.fitting == dpo.fitting
    assert rso.data.sft.endswith("seed=3")
    real = real_config(preferences="p", sft="s", base="b")
    assert real.sampling.num_candidates == 64
    assert real.sampling.max_prompts >= 24
    assert real.rejection_sampling.num_samples == 8
    assert real.reward.epochs >= 1
    assert real.reward.max_steps == 0


@pytest.mark.parametrize("command", [[], ["run"], ["import", "x"]])
def test_incomplete_commands_say_how_they_are_used(command: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "rso_core", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 2
    assert "usage: python -m rso_core" in done.stderr
