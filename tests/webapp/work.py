"""A worker inside the test's own process: it claims what is ready and does it for real."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rso_core.artifacts import ROWS
from rso_core.errors import UserError
from rso_core.stages import execute
from webapp.accounts.models import User
from webapp.runs import jobs, services
from webapp.runs.artifacts import store
from webapp.runs.failures import Failed
from webapp.runs.models import Dataset, Stage

SPLIT_FIELDS = ("split_seed", "validation_fraction", "test_fraction")


def work_off(stage: Stage | None) -> None:
    """Do every shard of a stage, as a worker and its runner would."""
    assert stage is not None
    while (claimed := jobs.claim(stage_id=stage.pk, worker="here")) is not None:
        try:
            result = execute(claimed.spec, store(), lambda _: None)
        except UserError as error:
            jobs.fail_shard(claimed, Failed("user", str(error)))
        else:
            jobs.finish_shard(claimed, digest=result.digest, summary=result.summary)


def json_lines(rows: Iterable[Mapping[str, Any] | str]) -> bytes:
    """Return rows as JSON lines; a text stands for itself, right or wrong."""
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def pairs(count: int) -> list[dict[str, str]]:
    """Return preference rows of different prompts."""
    return [{"prompt": f"question {i}", "chosen": f"good answer {i}", "rejected": f"bad {i}"} for i in range(count)]


def keep(content: bytes, name: str = "rows.jsonl") -> str:
    """Store bytes as an uploaded file and return the digest."""
    folder: Path = store().staging()
    (folder / name).write_bytes(content)
    return store().commit(folder, kind="upload")


def imported(owner: User, name: str, content: bytes, kind: str = "preference", **options: Any) -> Dataset:
    """Return a dataset that has been imported from `content`."""
    dataset = services.request_dataset_import(
        owner=owner,
        name=name,
        kind=kind,
        task="dialogue",
        config={"layout": "auto"},
        upload_digest=keep(content),
        **options,
    )
    work_off(dataset.stage)
    dataset.refresh_from_db()
    return dataset


def rows_of(dataset: Dataset) -> list[Path]:
    """Return the row files of a dataset."""
    return store().files(dataset.digest, ROWS)
