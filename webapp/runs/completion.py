"""What the product records when a stage of a certain kind has finished, in the transaction that finishes it."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import Any

from django.db import connection

from rso_core.artifacts import iterate_rows
from webapp.runs.artifacts import store
from webapp.runs.models import Dataset, Pair, RegisteredModel, Stage

_SPOOL_BYTES = 16 << 20
_PAIR_COLUMNS = (
    "index",
    "prompt_id",
    "prompt",
    "chosen",
    "rejected",
    "chosen_index",
    "rejected_index",
    "probability",
    "row_id",
)


def record_completion(stage: Stage) -> None:
    """Fill the tables that show what a finished stage made. `stage` has its digest and summary."""
    hook = _HOOKS.get(stage.kind)
    if hook is not None:
        hook(stage)


def on_completion(kind: str, hook: Callable[[Stage], None]) -> None:
    """Let another part of the product record what a finished stage of this kind made."""
    _HOOKS[kind] = hook


def fill_dataset(dataset: Dataset, stage: Stage) -> None:
    """Complete a dataset from its finished import. A dataset that is complete already stays as it is."""
    if dataset.digest:
        return
    dataset.digest = stage.digest
    dataset.summary = stage.summary
    for name in ("rows_in", "rows_kept", "rows_rejected"):
        setattr(dataset, name, stage.summary[name])
    dataset.save(update_fields=["digest", "summary", "rows_in", "rows_kept", "rows_rejected"])


def fill_model(model: RegisteredModel, stage: Stage) -> None:
    """Complete a registered model from its finished import."""
    if model.digest:
        return
    model.digest, model.summary, model.family = stage.digest, stage.summary, stage.summary["family"]
    model.save(update_fields=["digest", "summary", "family"])


def _fill_datasets(stage: Stage) -> None:
    for dataset in Dataset.objects.filter(stage=stage, digest=""):
        fill_dataset(dataset, stage)


def _fill_models(stage: Stage) -> None:
    for model in RegisteredModel.objects.filter(stage=stage, digest=""):
        fill_model(model, stage)


def _load_pairs(stage: Stage) -> None:
    """Copy the pairs that people will look at into the database."""
    rows = iterate_rows(store().files(stage.digest), _PAIR_COLUMNS)
    columns = ", ".join(f'"{name}"' for name in ("stage_id", *_PAIR_COLUMNS))
    statement = f'COPY "{Pair._meta.db_table}" ({columns}) FROM STDIN'  # noqa: SLF001 - Django's public Meta API
    with SpooledTemporaryFile(max_size=_SPOOL_BYTES, mode="w+", encoding="utf-8", newline="\n") as file:
        for lines in _batches(_copy_lines(stage.pk, rows), 1000):
            file.writelines(lines)
        file.seek(0)
        with connection.cursor() as cursor:
            cursor.copy_expert(statement, file)


def _copy_lines(stage_id: int, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield "\t".join(_copy_text(value) for value in (stage_id, *(row[name] for name in _PAIR_COLUMNS))) + "\n"


def _copy_text(value: object) -> str:
    r"""Return a value in COPY's text format, where \N is NULL. PostgreSQL holds no NUL: it becomes U+FFFD."""
    if value is None:
        return r"\N"
    text = str(value).replace("\x00", "\ufffd").replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _batches(items: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(items, size)):
        yield batch


_HOOKS: dict[str, Callable[[Stage], None]] = {
    "import_dataset": _fill_datasets,
    "import_model": _fill_models,
    "preference_pairs": _load_pairs,
}
