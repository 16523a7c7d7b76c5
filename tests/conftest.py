"""What every test finds: a PostgreSQL when it asks for one, three people, folders of its own, and no network."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connections
from pytest_django import DjangoDbBlocker, Settings

from webapp import environment
from webapp.accounts.models import Role, User

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AUDIT_TRUNCATE_TRIGGER = "audit_log_is_not_emptied"
NO_CHROMIUM = (
    "not run for want of a browser: put Debian's `chromium` (or Google Chrome) on the PATH, or set RSO_CHROMIUM"
)


def chromium_path() -> str | None:
    """Return the browser that the tests drive, if there is one."""
    named = os.environ.get("RSO_CHROMIUM")
    return named or next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a browser its tests are skipped, and fail where nobody would notice that: under CI=true."""
    if chromium_path() is None and os.environ.get("CI") != "true":
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=NO_CHROMIUM))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was not run."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_CHROMIUM in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} browser tests {NO_CHROMIUM}", yellow=True)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path."""
    path = chromium_path()
    assert path is not None, NO_CHROMIUM
    return path


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """Yield a folder that every user may enter, which pytest's own are not: root's PostgreSQL runs as somebody else."""
    folder = Path(tempfile.mkdtemp(prefix="rso-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The address of a PostgreSQL server: that of DATABASE_URL, or one of our own for this session."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    from workers.embedded_postgres import EmbeddedPostgres

    with reachable_folder() as folder:
        postgres = EmbeddedPostgres(folder / "postgres", durable=False)
        postgres.start()
        try:
            yield postgres.url
        finally:
            postgres.stop()


@pytest.fixture(scope="session")
def django_db_keepdb(request: pytest.FixtureRequest) -> bool:
    """Drop no database of a server that goes away with its folder: a thread that a test left may still hold a connection."""
    return "DATABASE_URL" not in os.environ or bool(request.config.getvalue("reuse_db"))


@pytest.fixture(scope="session")
def django_db_modify_db_settings(server_url: str, django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Point Django, whose settings were read before any fixture, at that server."""
    os.environ["DATABASE_URL"] = server_url
    connections["default"].settings_dict.update(environment.database("DATABASE_URL"))


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Let tests empty every table, the audit log too, and leave no connection that would keep the database from being dropped."""
    with django_db_blocker.unblock(), connections["default"].cursor() as cursor:
        cursor.execute(f"ALTER TABLE accounts_auditentry DISABLE TRIGGER {AUDIT_TRUNCATE_TRIGGER}")
    yield
    with django_db_blocker.unblock():
        connections.close_all()


@pytest.fixture
def database_url(transactional_db: None, server_url: str) -> str:
    """The address of the test database, for processes that a test starts."""
    name = connections["default"].settings_dict["NAME"]
    head, _, tail = server_url.partition("?")
    return head.rpartition("/")[0] + f"/{name}" + (f"?{tail}" if tail else "")


@pytest.fixture(autouse=True)
def own_folder(settings: Settings, tmp_path: Path) -> None:
    """Nothing a test does reaches the data folder of this checkout."""
    settings.VAR_DIR = tmp_path
    settings.ARTIFACT_URL = str(tmp_path / "artifacts")
    settings.ARTIFACT_CACHE = str(tmp_path / "artifact-cache")
    settings.CELERY_BROKER_URL = "filesystem://"
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # people are made in every test
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    settings.FILE_UPLOAD_TEMP_DIR = str(uploads)


def _person(name: str, role: Role) -> User:
    return User.objects.create_user(name, password="correct horse battery", role=role)


@pytest.fixture
def admin(db: None) -> User:
    """Sees and changes everything."""
    return _person("admin", Role.ADMIN)


@pytest.fixture
def researcher(db: None) -> User:
    """Owns what a test makes."""
    return _person("researcher", Role.RESEARCHER)


@pytest.fixture
def rater(db: None) -> User:
    """Must see none of datasets, models and runs."""
    return _person("rater", Role.RATER)
