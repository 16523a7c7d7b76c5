"""A run launched over HTTP and done by the product's workers makes the very artifacts of `python -m rso_core run`."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml

from rso_core.config import RunConfig, parse_run_config
from tests.conftest import reachable_folder
from tests.webapp.work import json_lines, pairs
from tests.workers.test_services import LINK, ROOT, Product
from webapp.runs.browser import Browser
from webapp.runs.demo import Visitor

pytestmark = pytest.mark.slow

ROWS = 60
TRAINING = {"epochs": 1, "batch_size": 8, "micro_batch_size": 4, "checkpoint_every": 2}
ONE_THREAD = {"RSO_THREADS": "1", "OMP_NUM_THREADS": "1"}


def config_of(preferences: str, sft: str, base: str) -> RunConfig:
    values: dict[str, Any] = {
        "name": "either way",
        "task": "dialogue",
        "data": {
            "preferences": preferences,
            "sft": sft,
            "validation_fraction": 0.25,
            "test_fraction": 0.25,
            "max_prompt_tokens": 64,
            "max_response_tokens": 16,
        },
        "model": {"base": base},
        "sft": TRAINING,
        "reward": {**TRAINING, "max_length": 256},
        "sampling": {"num_candidates": 16, "max_prompts": 8, "prompts_per_shard": 4},
        "fitting": TRAINING,
        "evaluation": {"max_validation_prompts": 6, "max_test_prompts": 8},
    }
    return parse_run_config(yaml.safe_dump(values))


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(json_lines(pairs(ROWS)))
    return file


@pytest.fixture
def product() -> Iterator[Product]:
    with reachable_folder() as var:
        product = Product(var, **ONE_THREAD)
        try:
            product.until("Ctrl-C stops everything")
            yield product
        finally:
            product.process.terminate()
            product.ends()


def by_web(product: Product, file: Path) -> dict[str, tuple[str, str]]:
    """Do it all over HTTP; return fingerprint and digest of every stage by key."""
    link = LINK.search(product.said)
    assert link is not None
    visitor = Visitor(Browser(f"http://127.0.0.1:{product.port}"), lambda _: None)
    visitor.enter(link=re.sub(r"http://[^/]+", f"http://127.0.0.1:{product.port}", link[0]))
    upload = {"kind": "preference", "task": "dialogue", "origin": "upload", "layout": "auto"}
    dataset = visitor.import_dataset("posts", upload, file)
    visitor.derive_targets(dataset, "targets")
    visitor.import_model("tiny", {"origin": "mini_tldr", "family": "causal", "seed": "0"})
    number = visitor.launch(config_of("posts", "targets", "tiny"))
    visitor.watch({"either way": number})
    with psycopg2.connect((product.var / "database-url").read_text().strip()) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT r.key, s.fingerprint, s.digest FROM runs_runstage r JOIN runs_stage s ON s.id = r.stage_id WHERE r.run_id = %s",
            [number],
        )
        return {key: (fingerprint, digest) for key, fingerprint, digest in cursor.fetchall()}


def by_command_line(folder: Path, file: Path) -> dict[str, tuple[str, str]]:
    recipe, store = folder / "recipe.yaml", folder / "store"
    config = config_of(str(file), str(file), "mini_tldr:family=causal,seed=0")
    recipe.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "rso_core", "run", str(recipe), "--store", str(store)]
    subprocess.run(command, cwd=ROOT, env=os.environ | ONE_THREAD, check=True, capture_output=True)
    stages = json.loads((store / "runs" / "either-way.json").read_text())["stages"]
    return {key: (stage["fingerprint"], stage["digest"]) for key, stage in stages.items()}


def test_a_run_from_the_browser_makes_the_artifacts_of_the_command_line(
    product: Product, preferences: Path, tmp_path: Path
) -> None:
    web = by_web(product, preferences)

    assert web == by_command_line(tmp_path, preferences)
    assert len(web) > 10
