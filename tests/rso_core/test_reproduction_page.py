"""The document of the reproduction is made of bundles alone."""

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from rso_core.interval_figure import Point, interval_figure
from rso_core.mini_tldr import blind_rules, generate_dataset
from rso_core.reproduction_page import main, read_notes

ROOT = Path(__file__).parents[2]


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.03, "n": 600, "seeds": 2, "p": 0.001}


def bundle(preset: str) -> dict[str, Any]:
    arms = {"hinge rso_sample_rank": 0.8, "hinge direct": 0.7}
    cost = {
        "decodes": 64.0,
        "comparisons": 67.5,
        "formula": [64, 68],
        "baseline_decodes": 1.0,
        "reward_forwards": 128.0,
    }
    difference = {"value": 0.1, "low": 0.06, "high": 0.14, "n": 600, "seeds": 2, "p": 0.001}
    return {
        "study": {"name": "Table 1", "preset": preset, "seeds": [10, 11]},
        "sft": {"proxy": figure(0.5)},
        "rows": [
            {"arm": arm, "settings": {"fitting.loss": "hinge"}, "figures": {"proxy": figure(value)}, "paper": {}, "cost": cost}
            for arm, value in arms.items()
        ],
        "comparisons": [
            {"metric": "proxy", "first": "hinge rso_sample_rank", "second": "hinge direct", "difference": difference,
             "adjusted": 0.004, "verdict": "clear"},
        ],
        "sharing": {"kinds": {"sampling": {"done": 2, "uses": 2}}, "seconds": 120.0, "seconds_separate": 240.0},
        "cells": [{"done": True}, {"done": False}],
        "versions": {"python": "3.11", "torch": "2", "transformers": "5", "threads": "1", "machine": "x86_64"},
    }  # fmt: skip


def test_reward_models_stand_beside_the_rules_that_do_not_read_the_post(tmp_path: Path) -> None:
    value = bundle("table_1")
    value["study"]["base"] = {"data": {"preferences": "mini_tldr:size=200,seed={seed}"}}
    value["reward_models"] = [
        {"seeds": [10], "heldout_pairs": 20, "accuracy": figure(0.81), "longer_wins": figure(0.5), "order_flips": 0.12},
        {"seeds": [11], "heldout_pairs": 0, "accuracy": None},
    ]
    rows = [blind_rules(row)["coverage"] for row in generate_dataset("preference", size=200, seed=10)]

    text = made(tmp_path, table_1=value)

    assert f"| 10 | 20 | 81.0 [79.0, 84.0] | 50.0 [48.0, 53.0] | {50 * sum(rows) / 100:.1f} | 12.0 |" in text
    assert "| 11 |" not in text


def test_a_study_on_files_comes_last_with_its_gold_model_and_its_judge(tmp_path: Path) -> None:
    value = bundle("")
    value["study"] |= {"name": "On real preferences", "base": {"data": {"preferences": "preferences.jsonl.gz"}}}
    known = {"heldout_pairs": 20, "longer_wins": figure(0.5), "order_flips": 0.12}
    value["reward_models"] = [
        {"metric": "proxy", "seeds": [0], "accuracy": figure(0.81), **known},
        {"metric": "gold", "seeds": [0], "accuracy": figure(0.51), **known},
    ]
    value["judge"] = {"accuracy": figure(0.51), "prompts": 24, "outcomes": {"unjudged": 2}, "order_flips": 9}

    text = made(tmp_path, real_study=value, table_1=bundle("table_1"))

    assert text.index("## Table 1") < text.index("## On real preferences")
    assert "| 0 | 20 | 81.0 [79.0, 84.0] | 50.0 [48.0, 53.0] | – | 12.0 |" in text
    assert "| 0, gold | 20 | 51.0 [49.0, 54.0] |" in text
    assert (
        "The judge is right on 51.0 [49.0, 54.0] % of 24 held-out human pairs (2 unjudged, the order decided 9)."
        in text
    )


def test_a_judge_without_any_verdict_has_no_accuracy(tmp_path: Path) -> None:
    value = bundle("table_1")
    value["judge"] = {"accuracy": None, "prompts": 4, "outcomes": {"unjudged": 4}, "order_flips": 0}
    value["auto_sxs"] = {"prompts": 96, "unjudged": 95, "samples": 384, "unparseable": 370}

    text = made(tmp_path, table_1=value)

    assert (
        "The judge is able to judge none of 4 held-out human pairs (4 unjudged, the order decided 0). AutoSxS left 95 of 96"
        in text
    )
    assert "| proxy % | AutoSxS % |" in text


def made(folder: Path, **bundles: dict[str, Any]) -> str:
    (folder / "reproduction").mkdir()
    for name, value in bundles.items():
        (folder / "reproduction" / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    (folder / "reproduction" / "notes.md").write_text("# Notes\n\n## table_1\n\nThe order holds.\n", encoding="utf-8")
    main(folder)
    return (folder / "reproduction.md").read_text(encoding="utf-8")


def test_the_page_holds_tables_comparisons_seeds_versions_and_notes(tmp_path: Path) -> None:
    text = made(tmp_path, table_7=bundle("table_7"), table_1=bundle("table_1"))

    assert text.index("Is rso above sft above direct") < text.index("What the training data of each system cost")
    assert "| hinge rso_sample_rank | hinge | 80.0 ± 2.5 ▲ |" in text
    assert "| hinge rso_sample_rank − hinge direct | proxy % | +10.0 [+6.0, +14.0] | 0.004 | clear |" in text
    assert "1 of 2 cells, seeds 10, 11. Done once of uses: sampling 2 of 2. 2 minutes of work; 4 had each" in text
    assert "| hinge direct | 64.0 | 67.5 | 64 + 68 | 1.0 |" in text
    assert "The order holds." in text
    assert (tmp_path / "reproduction" / "table_1.svg").exists()


def test_the_page_of_this_repository_is_the_one_made_from_its_bundles(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "reproduction", tmp_path / "reproduction")
    before = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    main(tmp_path)
    assert (tmp_path / "reproduction.md").read_text(encoding="utf-8") == before, "run `make reproduction-page`"


def test_notes_are_found_by_heading() -> None:
    assert read_notes("# T\n\n## table_1\n\nOne.\n\n## figure_3a\nTwo.\n") == {
        "table_1": "\nOne.\n",
        "figure_3a": "Two.\n",
    }
    assert read_notes("") == {}


def test_a_figure_places_values_on_its_scale_and_escapes_names() -> None:
    points = [Point("a & <b>", "proxy", 0.5, 0.4, 0.6), Point("c", "proxy", 0.9, 0.85, 0.93)]
    root = ET.fromstring(interval_figure("x < y", points))  # noqa: S314 - our own text

    circles = [item for item in root.iter("{http://www.w3.org/2000/svg}circle") if item.get("r") == "3.5"]
    lines = [item for item in root.iter("{http://www.w3.org/2000/svg}line") if item.get("style")]
    for circle, line in zip(circles, lines, strict=True):
        assert float(line.get("x1", "")) < float(circle.get("cx", "")) < float(line.get("x2", ""))
    assert float(circles[0].get("cx", "")) < float(circles[1].get("cx", ""))
    with pytest.raises(ValueError, match="has no points"):
        interval_figure("empty", [])
