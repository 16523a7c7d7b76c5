"""Pages, viewers and memory are measured over a seeded product, and the document says what came of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.service_memory import rises_of
from benchmarks.web_pages import p95

ROOT = Path(__file__).resolve().parents[1]


def page_row(name: str, p95_ms: float, *, download: bool = False) -> dict[str, Any]:
    return {"name": name, "path": f"/{name}/", "p50_ms": 10.0, "p95_ms": p95_ms, "bytes": 4000, "download": download}


def test_the_document_says_which_pages_miss_and_what_viewers_cost() -> None:
    pages = [page_row("slow", 140.0), page_row("rows.csv", 120.0, download=True), page_row("runs", 40.0)]
    found = {
        "pages": pages, "missed": ["/slow/"], "rows": {"run": 1000, "pair": 1_000_000}, "repeat": 20,
        "target": {"p95_ms": 100.0},
    }  # fmt: skip
    viewers = {
        "viewers": 300, "polls_per_second": 299.6, "core_share": 0.213, "target": {"core_share": 0.4}, "p50_ms": 3.0,
        "p95_ms": 9.0,
    }  # fmt: skip
    imports = {"rows": 160_000, "target": {"seconds": 90}, "formats": {"jsonl": {"seconds": 21.4, "peak_bytes": 2e8}}}

    shown = report.web({"web_pages": found, "web_viewers": viewers, "import_rows": imports})

    assert "with 1,000,000 × pair, 1,000 × run" in shown
    assert "is reached by 1 of 2" in shown  # files are no pages
    assert shown.index("| slow | `/slow/` | 10 | 140 | 4 |") < shown.index("| runs |")
    assert "300 people" in shown
    assert "**21%** of one core" in shown
    assert "jsonl 21 s and 200 MB" in shown
    assert report.web({}).count("not measured") == 4


def test_the_95th_percentile_is_a_value_that_95_of_100_do_not_exceed() -> None:
    assert p95([float(value) for value in range(1, 101)]) == 95
    assert p95([1.0, 2.0, 3.0]) == 3
    assert p95([float(value) for value in range(20, 0, -1)]) == 19


def test_the_memory_of_processes_without_a_model_is_judged_by_what_more_pairs_add() -> None:
    sizes = {
        "1000": {"import": 100, "web": 200},
        "100000": {"import": 150, "web": 190},
        "10000": {"import": 900, "web": 1},
    }

    assert rises_of(sizes) == {"import": 50, "web": -10}


@pytest.mark.slow
def test_the_memory_of_processes_without_a_model_is_measured(tmp_path: Path, server_url: str) -> None:
    command = [sys.executable, "-m", "benchmarks.service_memory", "--pairs", "20", "60", "--results", str(tmp_path)]
    environment = {**os.environ, "DATABASE_URL": server_url}
    environment.pop("RSO_VAR_DIR", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "service_memory.json").read_text())
    for peaks in found["sizes"].values():
        assert peaks.keys() == {"import", "supervisor", "web"}
        assert min(peaks.values()) > 20 << 20  # a process with Python and Django in it
    shown = report.web({"service_memory": found})
    assert "| process | 20 pairs | 60 pairs | rise |" in shown
    assert "| supervisor | " in shown


@pytest.mark.slow
def test_pages_and_viewers_are_measured_over_a_seeded_product(tmp_path: Path, server_url: str) -> None:
    sizes = (
        "--runs 6 --pairs 600 --largest-run 100 --prompts 80 --dataset-rows 30 --datasets 4 --models 2 --log-lines 2"
    )
    few = f"{sizes} --people 3 --audit 5 --sessions 2 --campaigns 3 --items 4 --repeat 2 --viewers 6 --seconds 3"
    command = [sys.executable, "-m", "benchmarks.web_pages", *few.split(), "--results", str(tmp_path)]
    environment = {**os.environ, "DATABASE_URL": server_url}
    environment.pop("RSO_VAR_DIR", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr  # 1: a busy machine misses a target
    pages, viewers = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("web_pages", "web_viewers"))
    assert {"runs", "run_pairs", "dataset", "campaign_results", "models", "admin_runs_stage"} <= {
        page["name"] for page in pages["pages"]
    }
    assert {page["status"] for page in pages["pages"]} <= {200, 302, 404}
    assert viewers["statuses"].keys() <= {"200", "304"}
    assert viewers["polls_per_second"] > 3
    assert viewers["core_share"] > 0
