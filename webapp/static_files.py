"""Serves the browser half of plotly from the installed Python package, so that both halves are of one version."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.contrib.staticfiles.finders import BaseFinder
from django.core.checks import CheckMessage
from django.core.files.storage import FileSystemStorage

_PATH = "plotly/plotly.min.js"


def _folder() -> Path:
    # Not imported: that would cost memory in every process.
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        message = "the package plotly is not installed; run make setup"
        raise ModuleNotFoundError(message)
    return Path(spec.submodule_search_locations[0]) / "package_data"


class PlotlyFinder(BaseFinder):
    """Finds one file, `plotly/plotly.min.js`."""

    def check(self, **_: Any) -> list[CheckMessage]:
        """Nothing can be wrong that `find` would not say."""
        return []

    def find(self, path: str, find_all: bool = False, **_: Any) -> str | list[str]:  # type: ignore[override] # noqa: FBT001, FBT002
        """Return where the file is; an empty list for every other path. Django sets the signature."""
        if path != _PATH:
            return []
        found = str(_folder() / "plotly.min.js")
        return [found] if find_all else found

    def list(self, ignore_patterns: Iterable[str] | None) -> Iterable[tuple[str, FileSystemStorage]]:  # noqa: ARG002 - Django's signature
        """Yield the file as (path inside its storage, storage)."""
        storage = FileSystemStorage(location=str(_folder()))
        storage.prefix = "plotly"  # type: ignore[attr-defined]
        yield "plotly.min.js", storage
