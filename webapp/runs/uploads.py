"""Uploaded files: counted while they arrive, kept as artifacts."""

import re
import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile
from django.core.files.uploadhandler import FileUploadHandler, SkipFile
from django.http import HttpRequest

from webapp.runs.artifacts import store

_LONGEST_NAME = 100


class QuotaUploadHandler(FileUploadHandler):
    """Stops keeping files once those of a request are larger than `MAX_UPLOAD_BYTES`; its fields still arrive.

    The request's length is not asked: a client may lie about it. Nothing is kept of those who may not upload:
    a request is parsed for its CSRF token before any view has asked who sends it.
    """

    def __init__(self, request: HttpRequest | None = None) -> None:
        super().__init__(request)
        self._received = 0

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        """Leave the file out when it comes from somebody who may not upload."""
        super().new_file(*args, **kwargs)
        if self.request is not None and not getattr(self.request.user, "may_research", False):
            raise SkipFile

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:  # noqa: ARG002 - Django's signature
        """Pass the bytes on to the next handler, up to the limit."""
        self._received += len(raw_data)
        if self._received > settings.MAX_UPLOAD_BYTES:
            if self.request is not None:
                self.request.META[f"too large: {self.field_name}"] = True
            raise SkipFile
        return raw_data

    def file_complete(self, file_size: int) -> None:
        """Leave the file to the next handler."""


def is_too_large(request: HttpRequest, field: str) -> bool:
    """Return whether the file of this field was left out because it was larger than the limit."""
    return bool(request.META.get(f"too large: {field}"))


def keep_upload(upload: "UploadedFile[Any]") -> str:
    """Store an uploaded file as an artifact of kind `upload` and return its digest."""
    staging = store().staging()
    try:
        target = staging / _safe_name(upload.name or "")
        if isinstance(upload, TemporaryUploadedFile):
            shutil.move(upload.temporary_file_path(), target)
        else:
            _write(upload, target)
        return store().commit(staging, kind="upload")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(upload: "UploadedFile[Any]", target: Path) -> None:
    with target.open("wb") as file:
        for chunk in upload.chunks():
            file.write(chunk)


def _safe_name(name: str) -> str:
    """Return a plain file name that keeps the ending, which tells the format."""
    safe = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".")[-_LONGEST_NAME:]
    return "upload" if safe in {"", "manifest.json"} else safe
