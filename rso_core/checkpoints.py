"""Resumable checkpoints of a training: whole or absent, checked when read, the last two kept.

A file is written under a name that carries the attempt, flushed, and renamed; its name then holds the SHA-256 of
its bytes, so that a damaged one is recognised and the one before it is used.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rso_core.artifacts import file_digest

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{8})-([0-9a-f]{64})\.pt")


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, attempt: int) -> None:
    """Write `state` (tensors, numbers, strings in dicts and lists) as the checkpoint of `step`; drop old ones.

    Raises OSError with ENOSPC when the disk has no room for it.
    """
    temporary = folder / f"checkpoint-{step:08d}.a{attempt}.partial"
    _require_space(folder, tensor_bytes(state))
    try:
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / f"checkpoint-{step:08d}-{file_digest(temporary)}.pt")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(folder)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the state of the newest whole checkpoint (None: there is none) and clear what killed attempts left."""
    for partial in folder.glob("*.partial"):
        if partial.is_file():
            partial.unlink(missing_ok=True)
    for path in _newest_first(folder):
        match = _NAME.fullmatch(path.name)
        if match and file_digest(path) == match[2]:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        path.unlink(missing_ok=True)
    return None


def tensor_bytes(state: object) -> int:
    """Return how many bytes the tensors in a nested state hold."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))


def _tensors(state: object) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("checkpoint-*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def _require_space(folder: Path, needed: int) -> None:
    # torch reports a full disk as a RuntimeError without a number, so it is looked at before.
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = f"a checkpoint needs {needed} bytes, {free} are free"
        raise OSError(errno.ENOSPC, message, str(folder))


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
