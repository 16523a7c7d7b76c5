"""Bring a model into the one form this product works with: a folder of config.json, safetensors and tokenizer.

Sources: such a folder, a single GGUF file (dequantised), or a repository of the Hugging Face hub. Code that comes
with a model is never run, pickled weights are never read.
"""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined] # HTTPError: of the client library it uses
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig, AutoTokenizer

from rso_core.errors import UserError
from rso_core.models import (
    LanguageModel,
    auto_class,
    check_tokenizer,
    check_vocabulary,
    describe,
    family_of,
    load_tokenizer,
    load_weights,
    read_config,
    require_safetensors,
    save,
)

# Top-level files only: some repositories keep other formats of the same weights in folders.
HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Write the model at `source` into the folder `target` and return its description (see `models.describe`).

    `source`: a model folder, a GGUF file, or a folder with one GGUF file and no config.json. Weights keep the
    precision they are stored in; a GGUF file's become float32. Raises UserError when it cannot serve.
    """
    if not source.exists():
        message = f"there is no model at {source}; give a model folder or a .gguf file"
        raise UserError(message)
    if source.is_dir() and not (source / "config.json").exists():
        files = sorted(source.glob("*.gguf"))
        source = files[0] if len(files) == 1 else source
    lm = read_folder(source) if source.is_dir() else read_gguf(source)
    check_vocabulary(lm, source.name)
    save(lm, target)
    return describe(target)


def read_folder(folder: Path) -> LanguageModel:
    """Return the model in `folder` on the CPU, in the precision it is stored in."""
    family = family_of(read_config(folder))
    tokenizer, _ = load_tokenizer(folder)
    require_safetensors(folder)
    return LanguageModel(load_weights(folder, family, dtype="auto"), tokenizer, family)


def read_gguf(file: Path) -> LanguageModel:
    """Return the dequantised model in a GGUF file, with the tokenizer and chat template that the file holds."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            message = (
                f"{file.name} is not a GGUF file; give a .gguf file or a folder with config.json and *.safetensors"
            )
            raise UserError(message)
    with TemporaryDirectory() as folder:
        # Without its ending in the name, transformers would take the file for a pickle.
        (Path(folder) / "model.gguf").symlink_to(file.resolve())
        return _understood(file, lambda: _read_named_gguf(Path(folder), file.name))


def _read_named_gguf(folder: Path, name: str) -> LanguageModel:
    where: dict[str, Any] = {"gguf_file": "model.gguf", "local_files_only": True, "trust_remote_code": False}
    family = family_of(AutoConfig.from_pretrained(folder, **where))
    tokenizer = check_tokenizer(AutoTokenizer.from_pretrained(folder, **where), name)
    model = auto_class(family).from_pretrained(folder, **where)
    return LanguageModel(_without_quantization(model), tokenizer, family)


def _understood(file: Path, read: Callable[[], LanguageModel]) -> LanguageModel:
    try:
        return read()
    except (ValueError, KeyError, OSError, TypeError, NotImplementedError, RuntimeError) as error:
        message = f"{file.name} cannot be read as a GGUF language model ({error}); import the model's safetensors folder instead"
        raise UserError(message) from error


def _without_quantization(model: Any) -> Any:
    """Return a plain model with the same weights: one loaded from GGUF refuses to be saved."""
    config = deepcopy(model.config)
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    plain = type(model)(config).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    return plain.eval()


def download(hub_id: str, revision: str, target: Path) -> Path:
    """Download safetensors, configuration and tokenizer of a hub repository into `target` and return it.

    Raises UserError when the repository, its revision or the network is not there.
    """
    try:
        snapshot_download(
            hub_id, revision=revision, local_dir=target, allow_patterns=HUB_FILES, ignore_patterns=["*/*"]
        )
    except (
        HFValidationError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        HTTPError,
        OSError,
    ) as error:
        raise UserError(_hub_message(hub_id, revision, error)) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return target


def _hub_message(hub_id: str, revision: str, error: Exception) -> str:
    # A gated repository is one kind of "not found", a missing file another: the special cases come first.
    if isinstance(error, GatedRepoError):
        return f"{hub_id} asks for its terms to be accepted: accept them on the hub and set HF_TOKEN for the worker, or import a folder"
    if isinstance(error, RevisionNotFoundError):
        return f"{hub_id} has no revision {revision!r} on the hub; write a branch, tag or commit of it (main is the usual one)"
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return f"there is no public model {hub_id!r} on the hub; check the spelling (owner/name), or set HF_TOKEN for a private one"
    return (
        f"the hub could not be reached for {hub_id} ({type(error).__name__}); this machine seems to be offline. Download the model "
        f"elsewhere, copy its folder (config.json, *.safetensors, tokenizer.json) here and import it from the server"
    )
