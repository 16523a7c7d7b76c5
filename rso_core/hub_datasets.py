"""Download the files of a published dataset from the Hugging Face hub. Files only: no code of a repository runs."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rso_core.errors import TransientError, UserError
from rso_core.records import Limits

_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_DESCRIPTIONS = frozenset({"dataset_infos.json", "dataset_info.json", "state.json", "package.json"})
_LISTED = 12


@dataclass(frozen=True)
class Downloaded:
    """Files of a dataset and the commit they belong to."""

    paths: list[Path]
    commit: str


def download(hub: str, folder: Path, *, revision: str = "main", file: str = "", split: str = "") -> Downloaded:
    """Download a dataset's files into `folder`: `file`, or those of `split` (default: train, or the only ones).

    Raises UserError when this machine is offline, the dataset does not exist or needs a licence to be accepted,
    or its files are ambiguous or too large; TransientError when the hub itself fails.
    """
    with _explained(hub, revision):
        from huggingface_hub import HfApi, hf_hub_download

        info = HfApi().dataset_info(hub, revision=revision, files_metadata=True, timeout=30)
        sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}
        names = choose_files(list(sizes), hub=hub, file=file, split=split)
        _refuse_large(hub, sum(sizes[name] for name in names))
        commit = info.sha or revision
        paths = [
            Path(hf_hub_download(hub, name, repo_type="dataset", revision=commit, local_dir=folder)) for name in names
        ]
        return Downloaded(paths, commit)


def _refuse_large(hub: str, size: int) -> None:
    limit = Limits().decoded_bytes
    if size > limit:
        message = f"the files of {hub} are {size:,} bytes, more than the {limit:,} of an import; name one file of it"
        raise UserError(message)


def choose_files(names: Sequence[str], *, hub: str, file: str = "", split: str = "") -> list[str]:
    """Return the data files to import, in order. Raises UserError when the choice is not clear."""
    data = sorted(name for name in names if _is_data(name))
    if file:
        if file not in names:
            message = f"{hub} holds no file {file!r}; its data files are {_list(data)}"
            raise UserError(message)
        return [file]
    chosen = _of_split(data, split) if split else _of_split(data, "train") or data
    # Parts of one table differ in nothing but their numbers.
    if len({re.sub(r"\d+", "#", name) for name in chosen}) == 1:
        return chosen
    what = f"of split {split}" if split else "to import"
    found = f"several tables {what}: {_list(chosen)}" if chosen else f"no data file {what}: {_list(data)}"
    message = f"{hub} holds {found}. Name one of its files, or download it and import the file"
    raise UserError(message)


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name not in _DESCRIPTIONS and name.lower().removesuffix(".gz").endswith(_ENDINGS)


def _of_split(names: Sequence[str], split: str) -> list[str]:
    return [name for name in names if split.lower() in re.split(r"[^a-z0-9]+", name.lower())]


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more


@contextmanager
def _explained(hub: str, revision: str) -> Iterator[None]:
    """Turn what the hub's library raises into messages that say what to do."""
    from huggingface_hub import errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of the client library it uses

    advice = "download the file on a machine that can, and import it here as an upload"
    try:
        yield
    except errors.GatedRepoError as error:
        message = f"{hub} asks its users to accept a licence first; accept it on the hub, {advice}"
        raise UserError(message) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        message = f"the hub knows no public dataset {hub!r}; check the id (owner/name) on the hub's page of the dataset"
        raise UserError(message) from error
    except errors.RevisionNotFoundError as error:
        message = f"{hub} has no revision {revision!r}; name a branch, tag or commit that its page lists"
        raise UserError(message) from error
    except errors.HfHubHTTPError as error:
        message = f"the hub answered with an error for {hub}: {error}"
        raise TransientError(message) from error
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        message = f"this worker cannot reach the Hugging Face hub ({type(error).__name__}), so {hub} cannot be downloaded; {advice}"
        raise UserError(message) from error
