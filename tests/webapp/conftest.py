"""What several tests of the pages share."""

from pathlib import Path

import pytest
from django.test import Client
from pytest_django import Settings

from tests.webapp.made_runs import imported, signed_in
from webapp.accounts.models import User


@pytest.fixture(scope="session")
def made_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the artifacts of made-up runs, which are the same in every test."""
    return tmp_path_factory.mktemp("made-artifacts")


@pytest.fixture
def made_store(own_folder: None, made_artifacts: Path, settings: Settings) -> None:
    """Keep artifacts from test to test: most of the time of a made-up run goes into writing them."""
    settings.ARTIFACT_URL = str(made_artifacts)


@pytest.fixture
def browser(researcher: User, made_store: None) -> Client:
    """A client in which a researcher is signed in who has imported data and a model."""
    imported(researcher)
    return signed_in(researcher)
