"""Finished runs whose models have answered prompts, and drafts that compare them."""

from collections.abc import Collection, Sequence
from typing import Any

from django.db.models.functions import Now

from rso_core.artifacts import ROWS, Row, iterate_rows, write_rows
from rso_core.config import RunConfig
from rso_core.stages import prompts_of_split
from rso_core.stages_evaluation import ANSWERS, RESPONSES
from tests.webapp.made_runs import _commit, config_of, launched, model_folder
from webapp.accounts.models import User
from webapp.human_eval.campaign_texts import SUMMARIZATION
from webapp.human_eval.creation import Created, SystemChoice, create_campaign
from webapp.runs import jobs
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset, Run, Stage, Status

SPLIT = {"seed": 0, "validation_fraction": 0.1, "test_fraction": 0.1}


def values(name: str = "Which policy?", **changed: Any) -> dict[str, Any]:
    """Return the fields of a campaign on the dataset `targets`."""
    fields = {"dataset": Dataset.objects.get(name="targets"), "split": "test", "num_items": 6, "name": name, "seed": 1}
    return {**SUMMARIZATION.values(), **fields, **changed}


def rows_of_split(split: str = "test") -> list[Row]:
    """Return the prompts of a split of `targets`, in the order in which runs with seed 0 answer them."""
    files = store().files(Dataset.objects.get(name="targets").digest)
    return prompts_of_split(files, split, SPLIT, limit=0, seed=0)


def finished_run(owner: User, config: RunConfig | None = None, *, answered: Collection[int] | None = None) -> Run:
    """Return a done run whose SFT model and policy have answered the test prompts (or those at `answered`)."""
    run = launched(owner, config or config_of())
    model = _commit(model_folder, "checkpoint_selection", "model")
    run.stages.filter(digest="").update(status=Status.DONE, digest=model)
    rows = [row for place, row in enumerate(rows_of_split()) if answered is None or place in answered]
    for key in ("generation_sft", "generation_policy"):
        run.stages.filter(run_stages__key=key).update(digest=_generation(rows, key, run.name))
    Run.objects.filter(pk=run.pk).update(status=Status.DONE, finished=Now())
    run.refresh_from_db()
    return run


def said(row: Row, key: str, run: str) -> str:
    return f"{key} of {run}: {row['prompt'][:12]}"


def _generation(rows: Sequence[Row], key: str, run: str) -> str:
    return _committed(
        [
            {**row, "response": said(row, key, run), "response_token_ids": [1], "truncated": place == 0}
            for place, row in enumerate(rows)
        ],
        RESPONSES,
    )


def _committed(rows: Sequence[Row], schema: Any) -> str:
    staging = store().staging()
    write_rows(staging / ROWS, ({name: row[name] for name in schema.names} for row in rows), schema)
    return store().commit(staging, kind="generation")


def work_on(stage: Stage, *, text: str = "sampled for {}") -> None:
    """Do what a worker does with a stage of kind `responses`."""
    while (claim := jobs.claim(stage_id=stage.pk, worker="gpu@here")) is not None:
        rows = [
            {
                "prompt_id": row["prompt_id"],
                "response": text.format(row["prompt"][:8]),
                "response_token_ids": [2],
                "truncated": False,
            }
            for row in iterate_rows(store().files(claim.spec.inputs["prompts"]))
        ]
        jobs.finish_shard(claim, digest=_committed(rows, ANSWERS), summary={"prompts": len(rows)})


def compared(owner: User, run: Run, **changed: Any) -> Created:
    """Return a draft that compares the policy, the SFT model and the targets of a run."""
    systems = [
        SystemChoice("policy", "RSO", run),
        SystemChoice("sft", "SFT", run),
        SystemChoice("target", "people"),
    ]
    return create_campaign(owner=owner, values=values(**changed), systems=systems)
