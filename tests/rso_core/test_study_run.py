"""A study on the command line: shared stages are done once, an interrupted study goes on to the same digests."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rso_core.__main__ import main
from rso_core.artifacts import ArtifactStore
from rso_core.costs import table_7
from rso_core.demo import changed
from rso_core.local_run import LocalRun
from rso_core.studies import cells, dump_study, parse_study
from rso_core.study_bundle import as_csv, as_latex, as_markdown
from rso_core.study_presets import mini_base, mini_tuned, preset_study, study_presets
from rso_core.study_run import SilentLine, claimed, in_order
from tests.rso_core.test_main import TINY, one_thread  # noqa: F401

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {
    **TINY,
    "data.preferences": "mini_tldr:size=120,seed={seed}",
    "data.sft": "mini_tldr:size=80,seed={seed}",
}
ARMS = 9


def command(store: Path, out: Path, *more: str, study: str = "table_1") -> list[str]:
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()] if study in study_presets() else []
    return ["study", study, *settings, "--store", str(store), "--out", str(out), *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store and the bundle of a Table 1 with two seeds."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSO_THREADS", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        # The grid alone: the arms beside it (RAFT, ReST, coin labels) have tests of their own, and take as long again.
        grid = preset_study(
            "table_1", base=changed(mini_base(), SETTINGS), seeds=[10, 11], tuned=mini_tuned()
        ).model_copy(update={"arms": ()})
        (folder / "study.yaml").write_text(dump_study(grid), encoding="utf-8")
        assert main(command(folder / "store", folder / "bundle.json", study=str(folder / "study.yaml"))) == 0
    return folder / "store", folder / "bundle.json"


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def test_table_1_trains_one_reward_model_and_samples_one_pool_for_each_seed(finished: tuple[Path, Path]) -> None:
    bundle = read(finished[1])

    kinds = bundle["sharing"]["kinds"]
    assert {kind: (kinds[kind]["done"], kinds[kind]["uses"]) for kind in ("sft", "reward_training", "sampling")} == {
        "sft": (2, 2 * ARMS),
        "reward_training": (2, 2 * ARMS),
        "sampling": (2, 2 * 6),
    }
    assert kinds["policy_fitting"]["done"] == 2 * ARMS
    assert kinds["scoring"]["done"] == 2
    assert kinds["preference_pairs"]["done"] == 2 * 3
    # And nothing else was executed: the store holds one artifact kind a stage, however often it was asked for.
    ledger = Counter(path.name.count(".") for path in (finished[0] / "finished").glob("*.json"))
    assert ledger[1] >= sum(kind["done"] for kind in kinds.values())


def test_the_bundle_holds_the_table_with_the_papers_figures_beside(finished: tuple[Path, Path]) -> None:
    bundle = read(finished[1])

    row = bundle["rows"][2]
    assert row["arm"] == "sigmoid_norm rso_sample_rank"
    tuned = mini_tuned()["sigmoid_norm rso_sample_rank"]
    assert row["settings"] == {"fitting.loss": "sigmoid_norm", "pairs.pair_source": "rso_sample_rank", **tuned}
    assert row["paper"] == {"tldr": {"proxy": 92.37, "gold": 82.22, "auto_sxs": 71.86}}
    assert row["seeds_done"] == [10, 11]
    assert row["figures"]["proxy"]["seeds"] == 2
    assert row["figures"]["gold"]["n"] == 12
    assert bundle["sft"]["proxy"]["seeds"] == 2
    assert [(model["metric"], model["seeds"]) for model in bundle["reward_models"]] == [
        ("proxy", [10]),
        ("proxy", [11]),
    ]
    assert all(0 <= model["accuracy"]["low"] <= model["accuracy"]["high"] <= 1 for model in bundle["reward_models"])
    by_seed = [cell["figures"]["proxy"]["value"] for cell in bundle["cells"] if cell["arm"] == row["arm"]]
    assert row["figures"]["proxy"]["value"] == pytest.approx(sum(by_seed) / 2)


def test_rso_is_planned_to_be_compared_with_sft_and_direct_within_each_loss(finished: tuple[Path, Path]) -> None:
    comparisons = read(finished[1])["comparisons"]

    planned = [(item["first"], item["second"]) for item in comparisons if item["adjusted"] is not None]
    expected = [
        (f"{loss} rso_sample_rank", f"{loss} {source}")
        for loss in ("sigmoid_norm", "hinge", "hinge_norm")
        for source in ("direct", "sft_sample_rank")
    ]
    assert sorted(planned) == sorted(expected * 2)
    others = [item for item in comparisons if item["adjusted"] is None]
    assert {item["verdict"] for item in others} == {"exploratory"}
    assert len(comparisons) == 2 * (10 * 9 // 2)


def test_costs_are_those_of_table_7(finished: tuple[Path, Path]) -> None:
    rows = {row["arm"]: row["cost"] for row in read(finished[1])["rows"]}

    assert rows["hinge direct"]["formula"] == [0, 0]
    assert (rows["hinge direct"]["decodes"], rows["hinge direct"]["comparisons"]) == (0, 0)
    for source, decodes in (("sft_sample_rank", 4), ("rso_sample_rank", 6)):
        found = rows[f"hinge {source}"]
        assert found["decodes"] == found["formula"][0] == decodes
        # Games between identical texts are not played, so fewer may be counted.
        assert found["comparisons"] <= found["formula"][1]
    assert rows["hinge rso_sample_rank"]["baseline_decodes"] == 1


def test_the_formulas_of_table_7_at_the_papers_numbers() -> None:
    found = {cell.arm: table_7(cell.config) for cell in cells(preset_study("table_7", base=mini_base(), seeds=[0]))}
    assert found == {
        "RAFT": (64, 63),
        "ReST": (64, 64),
        "DPO": (0, 0),
        "SLiC direct": (0, 0),
        "SLiC sample-rank": (8, 7),
        "RSO": (64, 64 + 4),
    }


def test_a_bundle_can_be_run_again_and_extended(finished: tuple[Path, Path], tmp_path: Path) -> None:
    store, bundle = finished
    again = tmp_path / "again.json"

    begun = time.monotonic()
    assert main(command(store, again, study=str(bundle))) == 0
    assert time.monotonic() - begun < 20
    assert read(again)["rows"] == read(bundle)["rows"]
    assert read(again)["study"] == read(bundle)["study"]


def test_exports_hold_every_row(finished: tuple[Path, Path]) -> None:
    bundle = read(finished[1])

    assert as_csv(bundle).count("\n") == 2 + ARMS
    assert as_csv(bundle).startswith("arm,proxy_value,proxy_low,proxy_high,proxy_seeds,gold_value")
    latex = as_latex(bundle)
    assert latex.count(r"\\") == 2 + ARMS
    assert r"sigmoid\_norm rso\_sample\_rank & sigmoid\_norm & rso\_sample\_rank" in latex
    assert "92.37 & 82.22 & 71.86" in latex
    assert as_markdown(bundle).count("\n") == 3 + ARMS


# Arms of Table 7 → the same recipes in Table 1.
SAME = {"DPO": "sigmoid_norm direct", "SLiC direct": "hinge direct", "RSO": "sigmoid_norm rso_sample_rank"}


def test_an_interrupted_study_goes_on_to_the_same_digests(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """Two workers are killed with their parent, wherever they are; one goes on, and another study was never interrupted."""
    arguments = command(tmp_path / "store", tmp_path / "b.json", "--seeds", "10-11", study="table_7")
    environment = {**os.environ, "RSO_THREADS": "1", "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "rso_core", *arguments, "--workers", "2"]
    process = subprocess.Popen(start, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "store" / "runs").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b.json").exists()
    wait_for_workers(tmp_path / "store")

    assert main(arguments) == 0

    digests = {(cell["arm"], cell["seed"]): cell["digests"] for cell in read(finished[1])["cells"]}
    found = [cell for cell in read(tmp_path / "b.json")["cells"] if cell["arm"] in SAME]
    assert len(found) == 2 * len(SAME)
    for cell in found:
        assert cell["digests"] == digests[SAME[cell["arm"]], cell["seed"]]


def wait_for_workers(store: Path) -> None:
    """Wait until the workers have noticed that their parent is gone: then no cell is claimed any more."""
    made = cells(preset_study("table_7", base=changed(mini_base(), SETTINGS), seeds=[10, 11], tuned=mini_tuned()))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.ExitStack() as stack:
            if all(stack.enter_context(claimed(ArtifactStore(str(store)), cell)) for cell in made):
                return
        time.sleep(0.1)
    pytest.fail("a worker outlived its parent")


def test_two_workers_come_from_both_ends_and_every_cell_is_in_each_order() -> None:
    found = cells(preset_study("table_1", base=mini_base(), seeds=range(10, 15)))

    orders = [in_order(found, number, 4) for number in range(4)]
    assert all(sorted(map(str, order)) == sorted(map(str, found)) for order in orders)
    assert [order[0].seed for order in orders[:2]] == [10, 14]
    assert len({order[0].seed for order in orders}) >= 3


def test_a_cell_belongs_to_the_worker_that_came_first(tmp_path: Path) -> None:
    store, (cell, other, *_) = ArtifactStore(str(tmp_path)), cells(preset_study("table_1", base=mini_base(), seeds=[1]))

    with claimed(store, cell) as mine, claimed(store, cell) as second, claimed(store, other) as free:
        assert (mine, second, free) == (True, False, True)
    with claimed(store, cell) as later:
        assert later


def test_what_is_no_study_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "table_9", "--store", str(tmp_path)]) == 2
    assert "table_9 is no preset (table_1, table_2" in capsys.readouterr().err
    assert main(["study", "table_1", "--set", "fitting.gama=1", "--store", str(tmp_path)]) == 2
    assert "fitting.gama" in capsys.readouterr().err


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with SilentLine("work") as line:
        line.note("something")
        line.end("done")
    assert capsys.readouterr().err == ""


def test_a_plan_of_a_study_reads_the_same_recipe_as_a_run(finished: tuple[Path, Path]) -> None:
    study = parse_study(finished[1].read_text(encoding="utf-8"))
    run = LocalRun(ArtifactStore(str(finished[0])), make_line=SilentLine)

    plan = run.plan(changed(cells(study)[0].config, {"name": "by hand"}))
    assert all(run.ledger.get(stage.fingerprint) for stage in plan.stages)
