"""The artifact store of this installation."""

from functools import cache
from pathlib import Path

from django.conf import settings

from rso_core.artifacts import ArtifactStore


def store() -> ArtifactStore:
    """Return the store that the settings name."""
    return _store(settings.ARTIFACT_URL, cache_folder())


def cache_folder() -> Path:
    """Return the local folder that artifacts of a remote store are kept in."""
    return Path(settings.ARTIFACT_CACHE)


@cache
def _store(url: str, folder: Path) -> ArtifactStore:
    return ArtifactStore(url, folder)
