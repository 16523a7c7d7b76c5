"""`manage.py create_campaign`: a campaign described in a file is what the form would have made."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.webapp.human_eval.comparisons import finished_run, rows_of_split
from tests.webapp.made_runs import imported
from webapp.accounts.models import User
from webapp.human_eval.models import Campaign

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("made_store")]


def create(folder: Path, owner: User, values: Any, *options: str) -> str:
    path = folder / "campaign.yaml"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    out = io.StringIO()
    call_command("create_campaign", str(path), "--owner", owner.username, *options, stdout=out)
    return out.getvalue()


def test_a_file_makes_a_campaign_and_opens_it(tmp_path: Path, researcher: User) -> None:
    imported(researcher)
    run = finished_run(researcher)
    answers = [json.dumps({"prompt_id": row["prompt_id"], "response": "Well."}) for row in rows_of_split()]
    (tmp_path / "theirs.jsonl").write_text("\n".join(answers), encoding="utf-8")
    text = f"""
name: From a file
dataset: targets
num_items: 5
replicas: 2
anchors: {{1: Bad, 5: Good}}
systems:
  - policy: {run.name}
    label: ours
  - sft: {run.pk}
  - file: theirs.jsonl
    label: theirs
"""
    said = create(tmp_path, researcher, text, "--open")
    campaign = Campaign.objects.get()
    assert "5 responses of theirs were stored, 0 are missing" in said
    assert f"From a file is open: /campaigns/{campaign.pk}/" in said
    assert (campaign.replicas, campaign.anchors, campaign.slots.count()) == (2, {"1": "Bad", "5": "Good"}, 10)
    assert list(campaign.systems.values_list("label", flat=True)) == ["ours", f"SFT of {run.name}", "theirs"]
    assert campaign.title == "Rate summaries of posts"


GOOD = {"name": "n", "dataset": "targets", "num_items": 5, "systems": [{"target": True}, {"file": "x.jsonl"}]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"systems": [{"target": True}]}, "two or three, got 1"),
        ({"systems": [{"target": True}, {"policy": 1, "sft": 1}]}, "system 2 must have one of"),
        ({"systems": [{"target": True}, {"policy": "nobody"}]}, "no run is called 'nobody'"),
        ({"systems": "target"}, "must hold a mapping"),
        ({"dataset": "other"}, "no dataset is called 'other'"),
        ({"template": "poems"}, "`template` must be one of"),
        ({"replicas": 0}, "replicas: Ensure this value is greater than or equal to 1"),
        ({"colour": "red"}, "colour is no field of a campaign"),
        ({"num_items": 5000}, "5000 are needed"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, researcher: User, changed: dict[str, Any], message: str) -> None:
    imported(researcher)
    (tmp_path / "x.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(CommandError, match=message):
        create(tmp_path, researcher, GOOD | changed)
    assert not Campaign.objects.exists()


def test_a_draft_says_what_it_needs_and_a_file_that_is_not_there_is_named(tmp_path: Path, researcher: User) -> None:
    imported(researcher)
    with pytest.raises(CommandError, match="there is no file at"):
        create(tmp_path, researcher, GOOD)
    with pytest.raises(CommandError, match="cannot be read as YAML"):
        create(tmp_path, researcher, "a: [")
    (tmp_path / "x.jsonl").write_text('{"prompt_id": "unknown", "response": ""}', encoding="utf-8")
    with pytest.raises(CommandError, match="none of the file's 1 prompts"):
        create(tmp_path, researcher, GOOD)
    assert not Campaign.objects.exists()
    some = [json.dumps({"prompt_id": row["prompt_id"], "response": "Well."}) for row in rows_of_split()[:6]]
    (tmp_path / "x.jsonl").write_text("\n".join(some), encoding="utf-8")
    said = create(tmp_path, researcher, GOOD | {"num_items": 0})
    assert "before it can be opened: " in said
    assert "of the responses of 'Uploaded 2' are not there yet" in said
