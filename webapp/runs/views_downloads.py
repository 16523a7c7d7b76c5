"""Downloads of a run: the policy, its training pairs."""

import json
from collections.abc import Iterator
from typing import Any

from django.http import Http404, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.http import require_safe

from rso_core.config import RunConfig
from rso_core.model_card import Made, model_card
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.accounts.audit import record_download
from webapp.runs.artifacts import store
from webapp.runs.exports import csv_lines, download
from webapp.runs.models import Pair, Run, RunStage, Stage, Status
from webapp.runs.policy_zip import zip_folder
from webapp.runs.views_runs import artifacts_needed, find_run

_CSV_COLUMNS = (
    "prompt", "chosen", "rejected", "probability", "prompt_id", "chosen_index", "rejected_index", "row_id",
)  # fmt: skip


def _finished(run: Run, key: str, what: str) -> Stage:
    """Return a finished stage of a run, or answer 404 with what to wait for."""
    found = RunStage.objects.filter(run=run, key=key, stage__status=Status.DONE).select_related("stage").first()
    if found is None:
        message = f"{run.name} has no {what} yet; they are there when its stage is done."
        raise Http404(message)
    return found.stage


@require_safe
@researcher_required
@artifacts_needed
def policy_zip(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download the fitted policy: a model folder as transformers loads it, with its model card."""
    run = find_run(request, pk)
    stage = _finished(run, "checkpoint_selection", "fitted policy")
    name = f"{_plain(run.name)}-policy"
    folder = store().path(stage.digest) / "model"
    record_download(request, run, file="policy.zip")
    response = StreamingHttpResponse(zip_folder(folder, name, _card(run)), content_type="application/zip")
    response["Content-Disposition"] = f'attachment; filename="{name}.zip"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _card(run: Run) -> str:
    """Return the policy's model card: recipe, data, figures and lineage, as far as the run has come."""
    done = RunStage.objects.filter(run=run, stage__status=Status.DONE).order_by("pk")
    rows = done.values_list("key", "stage__fingerprint", "stage__digest", "stage__summary")
    return model_card(RunConfig.model_validate(run.config), [Made(*row) for row in rows])


def _plain(name: str) -> str:
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return "-".join(part for part in kept.split("-") if part) or "run"


@require_safe
@researcher_required
def pairs_jsonl(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download the training pairs as JSON lines: prompt, chosen, rejected, as other trainers read them."""
    run = find_run(request, pk)
    rows = _pairs(_finished(run, "pairs", "training pairs"), ("prompt", "chosen", "rejected"))
    record_download(request, run, file="pairs.jsonl")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return download(lines, name=f"{_plain(run.name)}-pairs.jsonl", content_type="application/x-ndjson")


@require_safe
@researcher_required
def pairs_csv(request: SignedInRequest, pk: int) -> HttpResponseBase:
    """Download the training pairs with their probabilities as CSV that no spreadsheet executes."""
    run = find_run(request, pk)
    rows = _pairs(_finished(run, "pairs", "training pairs"), _CSV_COLUMNS)
    record_download(request, run, file="pairs.csv")
    return download(csv_lines(rows, _CSV_COLUMNS), name=f"{_plain(run.name)}-pairs.csv", content_type="text/csv")


def _pairs(stage: Stage, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    rows = Pair.objects.filter(stage=stage).order_by("index")
    yield from rows.values(*columns).iterator(chunk_size=1000)
