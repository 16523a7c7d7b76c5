"""What a recipe on the command line may name instead of a registered dataset or model.

- a file of preferences or SFT rows in any layout that the importers know;
- for `data.sft`, the same file as `data.preferences`: targets are then made of the chosen replies;
- a model folder (config.json, safetensors, tokenizer) or a GGUF file;
- for `judge.few_shot`, a YAML file instead of its text;
- `mini_tldr`, the built-in task, with options: `mini_tldr:size=4000,seed=1`, `mini_tldr:family=seq2seq`, and
  `mini_tldr:weights=pretrained`, the model that its reward model starts from;
- for `data.prompts`, also `mini_news:size=2000,seed=1`: its other prompts.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rso_core.artifacts import ArtifactStore
from rso_core.config import RunConfig
from rso_core.endpoint_settings import allowed_models
from rso_core.errors import UserError
from rso_core.mini_tldr import DEMO_SIZES
from rso_core.run_data import RunData, models_of, preferences_of, targets_of
from rso_core.vocabulary import DatasetKind, canonical_json

BUILT_IN, OTHER_PROMPTS = "mini_tldr", "mini_news"
_DATA_OPTIONS: Mapping[str, type] = {"size": int, "seed": int}
_MODEL_OPTIONS: Mapping[str, type] = {"family": str, "seed": int, "weights": str}
# Does an import unless it was done before, and returns its artifact: (kind, configuration, inputs, stamp of the source).
Import = Callable[[str, dict[str, Any], dict[str, str], str], str]


def built_in_dataset(reference: str, kind: DatasetKind) -> dict[str, Any] | None:
    """Return the part of an import's configuration that makes a dataset of the built-in task, None for another reference.

    Raises UserError on an unknown option, or a kind that `mini_news` does not have.
    """
    name = reference.partition(":")[0]
    if name not in (BUILT_IN, OTHER_PROMPTS):
        return None
    if name == OTHER_PROMPTS and kind != "sft":
        message = f"{OTHER_PROMPTS} holds prompts with targets to compare with, for data.prompts; received {reference!r} for {kind} data"
        raise UserError(message)
    return {name: {"size": DEMO_SIZES[kind], "seed": 0} | _options(reference, _DATA_OPTIONS)}


def built_in_model(reference: str) -> dict[str, Any] | None:
    """Return the same for a base model of the built-in task."""
    if reference.partition(":")[0] != BUILT_IN:
        return None
    return {BUILT_IN: {"family": "causal", "seed": 0} | _options(reference, _MODEL_OPTIONS)}


def _options(reference: str, allowed: Mapping[str, type]) -> dict[str, Any]:
    name, _, text = reference.partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in allowed or not value or (allowed[key] is int and not value.isdigit()):
            wanted = ", ".join(f"{option}=…" for option in allowed)
            message = (
                f"options of {name} are {wanted}, whole numbers where they count; received {item!r} in {reference!r}"
            )
            raise UserError(message)
        options[key] = allowed[key](value)
    return options


def existing_path(reference: str, what: str) -> Path:
    """Return the file or folder a reference names. Raises UserError when there is none."""
    path = Path(reference).expanduser()
    if not path.exists():
        message = f"no {what} at {reference!r}: name a file or folder that exists, or {BUILT_IN} for the built-in task"
        raise UserError(message)
    return path.resolve()


def stamp(path: Path) -> str:
    """Return a digest of names, sizes and times of a file or of a folder's files: another when they were changed."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    seen = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return hashlib.sha256(canonical_json(seen).encode()).hexdigest()


def check(config: RunConfig) -> None:
    """Raise UserError when something that the recipe names does not exist."""
    for reference, kind in datasets_of(config):
        if built_in_dataset(reference, kind) is None:
            existing_path(reference, "dataset")
    for reference in models_of(config):
        if built_in_model(reference) is None:
            existing_path(reference, "model")


def datasets_of(config: RunConfig) -> Iterator[tuple[str, DatasetKind]]:
    """Yield every dataset that a recipe names, with its kind."""
    yield from ((reference, "preference") for reference in preferences_of(config))
    yield from ((reference, "sft") for reference in targets_of(config))


def _with_few_shot(config: RunConfig) -> RunConfig:
    """Return the recipe with the text of the few-shot file that it names in the place of its name."""
    named = config.judge.few_shot.strip()
    if "\n" in named or not named.endswith((".yaml", ".yml")):
        return config
    text = existing_path(named, "few-shot file").read_text(encoding="utf-8")
    return config.model_copy(update={"judge": config.judge.model_copy(update={"few_shot": text})})


class References:
    """Imports what a recipe names, each once."""

    def __init__(self, store: ArtifactStore, do_import: Import) -> None:
        self._store = store
        self._import = do_import

    def resolve(self, config: RunConfig) -> tuple[RunConfig, RunData]:
        """Return the recipe with its datasets named by role, and the data under these names.

        One reference may stand for two datasets (preferences, and targets made of them), so references themselves
        cannot be the names. Imports what has not been imported yet. Raises UserError.
        """
        check(config)
        config = _with_few_shot(config)
        preferences = self.dataset(config.data.preferences, "preference")
        digests = {"preferences": preferences, "sft": self._sft(config, preferences)}
        if config.data.prompts:
            digests["prompts"] = self.dataset(config.data.prompts, "sft")
        parts: dict[str, Any] = {"data": config.data.model_copy(update={name: name for name in digests})}
        for reference in preferences_of(config)[1:]:
            digests["gold_preferences"] = self.dataset(reference, "preference")
            parts["gold_reward"] = config.gold_reward.model_copy(update={"preferences": "gold_preferences"})
        models = {reference: self.model(reference) for reference in models_of(config)}
        return config.model_copy(update=parts), RunData(self._store, digests, models, allowed_models())

    def _sft(self, config: RunConfig, preferences: str) -> str:
        same = config.data.sft == config.data.preferences
        if same and built_in_dataset(config.data.sft, "sft") is None:
            return self._import("import_dataset", {"kind": "sft"}, {"dataset": preferences}, "")
        return self.dataset(config.data.sft, "sft")

    def dataset(self, reference: str, kind: DatasetKind, *, layout: str = "auto") -> str:
        """Return the digest of the dataset a reference names."""
        built_in = built_in_dataset(reference, kind)
        if built_in is not None:
            return self._import("import_dataset", {"kind": kind, **built_in}, {}, "")
        upload = self._upload(existing_path(reference, "dataset"))
        return self._import("import_dataset", {"kind": kind, "layout": layout}, {"upload": upload}, "")

    def _upload(self, path: Path) -> str:
        """Store a file as the web application stores an uploaded one, and return its digest."""
        if path.is_dir():
            message = f"a dataset is a file (JSONL, JSON, CSV or Parquet, also gzipped), {path} is a folder"
            raise UserError(message)
        staging = self._store.staging()
        try:
            shutil.copyfile(path, staging / path.name)
            return self._store.commit(staging, kind="upload")
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def model(self, reference: str) -> str:
        """Return the digest of the model a reference names."""
        built_in = built_in_model(reference)
        if built_in is not None:
            return self._import("import_model", built_in, {}, "")
        path = existing_path(reference, "model")
        return self._import("import_model", {"path": str(path)}, {}, stamp(path))
