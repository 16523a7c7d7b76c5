"""The loop closes: what people chose becomes a dataset, and a run that is launched from its page trains on it."""

import json
import re

import pytest
from django.test import Client

from rso_core.artifacts import iterate_rows
from rso_core.config import parse_run_config
from tests.webapp.graphs import stage_of
from tests.webapp.human_eval.test_results_figures import rated
from tests.webapp.made_runs import signed_in
from tests.webapp.work import imported, json_lines, pairs, rows_of, work_off
from webapp.accounts.models import User
from webapp.human_eval.models import Campaign, Item
from webapp.runs.artifacts import store
from webapp.runs.forms import form_data
from webapp.runs.models import Dataset, RegisteredModel, Run, Stage, Status

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

TRAINING = "{epochs: 1, batch_size: 8, micro_batch_size: 4}"
RECIPE = f"""
name: on what people chose
task: dialogue
data: {{preferences: chosen by people, sft: targets, validation_fraction: 0.25, test_fraction: 0.25,
  max_prompt_tokens: 64, max_response_tokens: 16}}
model: {{base: tiny}}
sft: {TRAINING}
reward: {{epochs: 1, batch_size: 8, micro_batch_size: 4, max_length: 256}}
pairs: {{pair_source: direct}}
fitting: {TRAINING}
evaluation: {{max_validation_prompts: 6, max_test_prompts: 8}}
"""


def rated_prompts_of(source: Dataset, owner: User) -> Campaign:
    """Return a campaign about the prompts of a dataset, of which all raters preferred system 0's response."""
    rows = list(iterate_rows(rows_of(source)))
    campaign = rated(owner, ((0, 0),) * len(rows), dataset=source, task="dialogue")
    for item, row in zip(campaign.items.order_by("index"), rows, strict=True):
        Item.objects.filter(pk=item.pk).update(
            prompt=row["prompt"], messages=json.loads(row["messages"]), prompt_id=row["prompt_id"], root=row["root"]
        )
    return campaign


def launched_from(client: Client, link: str) -> Run:
    """Launch a run on the page that the link of a preference dataset leads to."""
    assert '<option value="chosen by people" selected' in client.get(link).content.decode()
    form = form_data(parse_run_config(RECIPE))
    client.post("/runs/new/", form | {"action": "preview"})
    work_off(Stage.objects.get(kind="length_profile"))
    launched = client.post("/runs/new/", form | {"action": "launch"})
    return Run.objects.get(pk=re.findall(r"/runs/(\d+)/", launched["Location"])[0])


def test_a_run_trains_on_what_people_chose(researcher: User) -> None:
    client = signed_in(researcher)
    source = imported(researcher, "posts", json_lines(pairs(24)))
    client.post(f"/datasets/{source.pk}/derive/", {"name": "targets"})
    work_off(Dataset.objects.get(name="targets").stage)
    client.post("/models/new/", {"name": "tiny", "origin": "mini_tldr", "family": "causal", "seed": "0"})
    work_off(RegisteredModel.objects.get(name="tiny").stage)
    campaign = rated_prompts_of(source, researcher)
    address = f"/campaigns/{campaign.pk}/preferences/"
    client.post(address, {"name": "chosen by people", "by": "majority"})
    work_off(Dataset.objects.get(name="chosen by people").stage)
    (link,) = re.findall(r'"(/runs/new/\?[^"]+)"', client.get(f"{address}live/").content.decode())

    run = launched_from(client, link)
    for item in run.run_stages.select_related("stage").order_by("order"):
        work_off(item.stage)

    run.refresh_from_db()
    assert run.status == Status.DONE, [(row.key, row.stage.status, row.stage.error) for row in run.run_stages.all()]
    trained = list(iterate_rows(store().files(stage_of(run, "pairs").digest)))
    assert {(row["chosen"], row["rejected"]) for row in trained} <= {
        (f"Answer 0 to post {item}.", f"Answer {other} to post {item}.") for item in range(24) for other in (1, 2)
    }
    assert len(trained) > 10
    assert stage_of(run, "policy_fitting").summary
