"""Push what a run has made to the Hugging Face hub: the policy as a model, pairs and candidates as datasets."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from rso_core.errors import TransientError, UserError

# Of each exported folder: which kind of repository it is, and what the repository's name ends in.
_REPOSITORIES = {"policy": ("model", ""), "pairs": ("dataset", "-pairs"), "candidates": ("dataset", "-candidates")}
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_destination(repository: str) -> None:
    """Raise UserError unless `repository` is owner/name and this machine holds a token to write with."""
    from huggingface_hub import get_token

    if not _NAME.fullmatch(repository):
        message = f"the hub's name of the policy must be owner/name, received {repository!r}"
        raise UserError(message)
    if not get_token():
        message = "nobody is signed in to the Hugging Face hub here: set HF_TOKEN to a token that may write"
        raise UserError(message)


def push(folders: Mapping[str, Path], repository: str, *, public: bool = False) -> dict[str, str]:
    """Push exported folders (`exports.export_run`) and return the address of each; a new repository is private unless `public`.

    Raises UserError when the hub cannot be reached or refuses, TransientError when the hub itself fails.
    """
    from huggingface_hub import HfApi

    check_destination(repository)
    hub, addresses = HfApi(), {}
    for what, folder in folders.items():
        kind, ending = _REPOSITORIES[what]
        name = repository + ending
        with _explained(name):
            addresses[what] = str(hub.create_repo(name, repo_type=kind, private=not public, exist_ok=True))
            hub.upload_folder(
                folder_path=folder, repo_id=name, repo_type=kind, commit_message=f"Upload {what} of a run of RSO Studio"
            )
    return addresses


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what the hub's library raises into messages that say what to do."""
    from huggingface_hub import errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of the client library it uses

    kept = "the exported folders are complete and can be pushed later"
    try:
        yield
    except errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            message = f"the hub failed while {name} was pushed: {error}; {kept}"
            raise TransientError(message) from error
        message = f"the hub refuses {name}: {error}; check the name and that HF_TOKEN may write there; {kept}"
        raise UserError(message) from error
    except (HTTPError, OSError) as error:
        message = f"this machine cannot reach the Hugging Face hub ({type(error).__name__}); {kept}"
        raise UserError(message) from error
