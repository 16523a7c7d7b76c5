"""Write what a run has made for other programs: the policy with its card, its pairs and its candidates as datasets.

A dataset is a folder that `datasets.load_dataset` reads: `data/train.parquet`, a card, and `train.jsonl` for
everything else. Pairs have the columns `prompt`, `chosen` and `rejected`, as TRL's trainers read them; `prompt` is the
text that the policy reads, its template included, so that the same tokens are trained on.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rso_core.artifacts import MANIFEST, ArtifactStore, Row, iterate_rows
from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.model_card import Made, model_card

PAIRS = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "chosen", "rejected", "prompt_id")),
        *((name, pa.int32()) for name in ("chosen_index", "rejected_index")),
        ("probability", pa.float64()),
    ]
)
POOL = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "prompt_id", "response")),
        ("sample_index", pa.int32()),
        ("truncated", pa.bool_()),
        ("reward", pa.float64()),
    ]
)
_ROWS_AT_ONCE = 1000
_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train.parquet
---

# {title}

{about}
"""
_ENDINGS = ("", "\n", " ")
_PAIRS_TRIED = 32  # one is not enough: its response may be empty
Decode = Callable[[Sequence[int]], str]


def prompt_text(tokenizer: Any, tried: Sequence[Row]) -> Decode:
    """Return the text of a prompt's token ids as the policy reads it, special tokens of its template included.

    It ends in such a way that text put behind it gives tokens of its own in most of the pairs `tried`: other trainers
    tokenize both together. White space is lost on the way where a tokenizer splits at it.
    """

    def text(ids: Sequence[int]) -> str:
        found: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return found

    def holds(ending: str, pair: Row) -> bool:
        ids = pair["prompt_token_ids"]
        whole = text(ids) + ending + pair["chosen"]
        return bool(tokenizer(whole)["input_ids"][: len(ids)] == list(ids))

    ending = max(_ENDINGS, key=lambda ending: sum(holds(ending, pair) for pair in tried))  # the first of equals
    return lambda ids: text(ids) + ending


def pair_rows(files: Sequence[Path], decode: Decode) -> Iterator[Row]:
    """Yield the training pairs of an artifact as other trainers read them."""
    for row in iterate_rows(files):
        yield {name: row[name] for name in PAIRS.names} | {"prompt": decode(row["prompt_token_ids"])}


def pool_rows(files: Sequence[Path], scores: Sequence[Path], decode: Decode) -> Iterator[Row]:
    """Yield every candidate of a pool with its reward (None where the run needed none)."""
    scored: Iterator[Row | None] = iterate_rows(scores) if scores else iter(())
    for row in iterate_rows(files):
        score = next(scored, None)
        rewards = score["rewards"] if score else [None] * len(row["candidates"])
        for candidate, reward in zip(row["candidates"], rewards, strict=True):
            yield {
                "prompt": decode(row["prompt_token_ids"]),
                "prompt_id": row["prompt_id"],
                "response": candidate["text"],
                "sample_index": candidate["sample_index"],
                "truncated": candidate["truncated"],
                "reward": reward,
            }


def write_dataset(folder: Path, rows: Iterable[Row], schema: pa.Schema, *, title: str, about: str) -> int:
    """Write rows as Parquet and as JSON lines, with a card, and return how many. Raises UserError when the folder exists."""
    _refuse_existing(folder)
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(_CARD.format(title=title, about=about), encoding="utf-8")
    count, source = 0, iter(rows)
    with (
        pq.ParquetWriter(folder / "data" / "train.parquet", schema) as parquet,
        (folder / "train.jsonl").open("w", encoding="utf-8") as lines,
    ):
        while block := list(islice(source, _ROWS_AT_ONCE)):
            parquet.write_table(pa.Table.from_pylist(block, schema=schema))
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in block)
            count += len(block)
    return count


def write_policy(source: Path, folder: Path, card: str) -> None:
    """Copy a model folder and lay its card beside it. Raises UserError when the folder exists."""
    _refuse_existing(folder)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MANIFEST))
    (folder / "README.md").write_text(card, encoding="utf-8")


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        message = f"{folder} exists, and nothing is written over: remove it, or name another folder"
        raise UserError(message)


def export_run(record: Mapping[str, Any], store: ArtifactStore, target: Path) -> dict[str, Path]:
    """Write policy, pairs and candidates of a recorded run into `target`, as far as it made them; return the folders.

    `record` is what `local_run.LocalRun` writes. Raises UserError when an artifact is gone or a folder exists.
    """
    from rso_core.models import load_tokenizer

    config, stages = RunConfig.model_validate(record["config"]), record["stages"]
    made = [Made(key, s["fingerprint"], s["digest"], s["summary"]) for key, s in stages.items()]
    digests = {stage.key: stage.digest for stage in made}
    tokenizer, _ = load_tokenizer(store.path(digests["sft"]) / "model")
    tried = list(islice(iterate_rows(store.files(digests["pairs"])), _PAIRS_TRIED)) if "pairs" in digests else []
    decode, about = (
        prompt_text(tokenizer, tried),
        f"Made by the run {config.name!r} of RSO Studio, from {config.data.preferences}.",
    )
    written: dict[str, Path] = {}
    if "checkpoint_selection" in digests:
        written["policy"] = target / "policy"
        source = store.path(digests["checkpoint_selection"]) / "model"
        write_policy(source, written["policy"], model_card(config, made))
    if "pairs" in digests:
        written["pairs"] = target / "pairs"
        rows = pair_rows(store.files(digests["pairs"]), decode)
        write_dataset(written["pairs"], rows, PAIRS, title=f"{config.name}: training pairs", about=about)
    if "sampling" in digests:
        written["candidates"] = target / "candidates"
        scores = store.files(digests["scoring"]) if "scoring" in digests else []
        rows = pool_rows(store.files(digests["sampling"]), scores, decode)
        write_dataset(written["candidates"], rows, POOL, title=f"{config.name}: candidates", about=about)
    return written
