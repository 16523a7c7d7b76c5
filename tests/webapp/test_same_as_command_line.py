"""The same files and settings are the same work, whether a browser or the command line brings them."""

from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from rso_core.artifacts import ArtifactStore
from rso_core.config import PairSource, RunConfig
from rso_core.local_run import LocalRun
from tests.webapp.made_runs import signed_in
from tests.webapp.work import json_lines, pairs, work_off
from webapp.accounts.models import User
from webapp.runs import services
from webapp.runs.models import Dataset, RegisteredModel

pytestmark = pytest.mark.django_db
ROWS = 40


def config_of(preferences: str, sft: str, base: str, pair_source: PairSource = "rso_sample_rank") -> RunConfig:
    values: dict[str, Any] = {
        "name": "either way",
        "task": "dialogue",
        "data": {"preferences": preferences, "sft": sft, "validation_fraction": 0.25, "test_fraction": 0.25},
        "model": {"base": base},
        "pairs": {"pair_source": pair_source},
    }
    return RunConfig.model_validate(values)


@pytest.fixture
def brought_by_browser(researcher: User) -> None:
    """Preferences uploaded, targets made by one click, and the built-in model, as the pages bring them in."""
    browser = signed_in(researcher)
    upload = SimpleUploadedFile("Our preferences (1).jsonl", json_lines(pairs(ROWS)))
    form = {"name": "posts", "kind": "preference", "task": "dialogue", "origin": "upload", "layout": "auto"}
    browser.post("/datasets/new/", {**form, "file": upload})
    posts = Dataset.objects.get(name="posts")
    work_off(posts.stage)
    browser.post(f"{posts.get_absolute_url()}derive/", {"name": "targets"})
    work_off(Dataset.objects.get(name="targets").stage)
    browser.post("/models/new/", {"name": "tiny", "origin": "mini_tldr", "family": "causal", "seed": "0"})
    work_off(RegisteredModel.objects.get(name="tiny").stage)


@pytest.mark.usefixtures("brought_by_browser")
@pytest.mark.parametrize("pair_source", ["direct", "sft_sample_rank", "rso_sample_rank"])
def test_browser_and_command_line_plan_the_same_fingerprints(
    researcher: User, tmp_path: Path, pair_source: PairSource
) -> None:
    plan, _, _ = services.preview_plan(config=config_of("posts", "targets", "tiny", pair_source), user=researcher)

    file = tmp_path / "pairs.jsonl"
    file.write_bytes(json_lines(pairs(ROWS)))
    local = LocalRun(ArtifactStore(str(tmp_path / "store")))
    by_hand = local.plan(config_of(str(file), str(file), "mini_tldr:family=causal,seed=0", pair_source))

    assert [(stage.key, stage.fingerprint, stage.shards) for stage in by_hand.stages] == [
        (stage.key, stage.fingerprint, stage.shards) for stage in plan.stages
    ]
