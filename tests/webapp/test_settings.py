import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from pytest_django import Settings

from webapp import environment
from webapp.checks import check_database_is_named

ROOT = Path(__file__).resolve().parents[2]


def started(var: Path, code: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Start Django in a process of its own with these variables and run code after that."""
    program = f"import django, sys; django.setup(); from django.conf import settings\n{code}"
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    surroundings = clean | {"DJANGO_SETTINGS_MODULE": "webapp.settings", "RSO_VAR_DIR": str(var)} | variables
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("name", "value", "required"),
    [
        ("RSO_HTTPS", "maybe", "one of 1, true, yes, on, 0, false, no, off"),
        ("RSO_WEB_THREADS", "0", "a whole number of at least 1"),
        ("RSO_WEB_THREADS", "many", "a whole number of at least 1"),
        ("RSO_LEASE_SECONDS", "nan", "a number of at least 1"),
        ("RSO_RETRY_SECONDS", "-1", "a number of at least 0"),
        ("RSO_MAX_UPLOAD_BYTES", "2 GB", "a whole number of at least 1"),
        ("RSO_VAR_DIR", "s3://bucket", "a path of this machine"),
        ("CELERY_BROKER_URL", "localhost:6379", "a URL that begins with a scheme and ://"),
        ("RSO_RUNNER_COMMAND", "srun 'python", "a command as one would type it"),
        ("RSO_LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR"),
    ],
)
def test_a_wrong_value_ends_the_start_with_variable_requirement_and_value(
    tmp_path: Path, name: str, value: str, required: str
) -> None:
    done = started(tmp_path, **{name: value})
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "ImproperlyConfigured" in last
    assert f"{name} must be {required}" in last
    assert repr(value) in last


@pytest.mark.parametrize(
    "url", ["mysql://a:secret@b/c", "postgresql://u:secret@host:port/name", "postgresql://u:secret@host"]
)
def test_a_wrong_database_address_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL must be a URL such as") as refused:
        environment.database("DATABASE_URL")
    assert "secret" not in str(refused.value)


def test_a_database_address_has_options_sockets_and_quoted_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "DATABASE_URL", "postgresql://a%40b:p%2Fw@db.example:6432/my%20name?sslmode=require&connect_timeout=5"
    )
    assert environment.database("DATABASE_URL") == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "my name",
        "USER": "a@b",
        "PASSWORD": "p/w",
        "HOST": "db.example",
        "PORT": "6432",
        "OPTIONS": {"sslmode": "require", "connect_timeout": "5"},
    }
    monkeypatch.setenv("DATABASE_URL", "postgres://rso:x@/rso?host=/run/my%20socket&port=5433")
    found = environment.database("DATABASE_URL")
    assert (found["HOST"], found["PORT"], found["OPTIONS"]) == ("/run/my socket", "5433", {})


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "SWITCH", "NUMBER", "PLACE"):
        monkeypatch.setenv(name, "")
    assert environment.database("DATABASE_URL") == {}
    assert environment.envbool("SWITCH", default=True) is True
    assert environment.envint("NUMBER", 3, minimum=0) == 3
    assert environment.envfolder_or_url("PLACE", Path("/here")) == "/here"


def test_the_first_start_makes_a_secret_that_only_its_user_can_read(tmp_path: Path) -> None:
    first = started(tmp_path, "print(settings.SECRET_KEY)")
    second = started(tmp_path, "print(settings.SECRET_KEY)")
    file = tmp_path / "secrets" / "secret-key"
    assert first.stdout == second.stdout == file.read_text() + "\n"
    assert len(file.read_text()) >= 50
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in file.parent.iterdir()) == ["secret-key"]


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(environment.made_secret(tmp_path / "s" / "key")))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert len(set(found)) == 1


def test_a_secret_may_come_from_a_file_of_the_site(tmp_path: Path) -> None:
    file = tmp_path / "mounted"
    file.write_text("s" * 60 + "\n")
    assert started(tmp_path, "print(settings.SECRET_KEY)", SECRET_KEY_FILE=str(file)).stdout == "s" * 60 + "\n"
    assert "SECRET_KEY_FILE must name a readable text file" in started(tmp_path, SECRET_KEY_FILE="/nowhere").stderr
    file.write_text("")
    assert (
        "SECRET_KEY_FILE must be the path of a file that is not empty"
        in started(tmp_path, SECRET_KEY_FILE=str(file)).stderr
    )


def test_django_starts_without_the_heavy_libraries(tmp_path: Path) -> None:
    names = ("torch", "transformers", "datasets", "peft", "gradio", "plotly", "pandas")
    done = started(
        tmp_path, f"import webapp.urls, webapp.asgi; print([name for name in {names} if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_libraries_look_nothing_up_outside_unless_asked_to(tmp_path: Path) -> None:
    code = "import os; print(os.environ['HF_HUB_OFFLINE'], os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    assert started(tmp_path, code).stdout.split() == ["1", "1"]
    assert started(tmp_path, code, HF_HUB_OFFLINE="0").stdout.split() == ["0", "1"]


def test_only_this_machine_is_served_until_hosts_are_named(tmp_path: Path) -> None:
    code = "print(settings.ALLOWED_HOSTS)"
    assert started(tmp_path, code).stdout.strip() == "['localhost', '127.0.0.1', '[::1]']"
    assert "'rso.example.org'" in started(tmp_path, code, ALLOWED_HOSTS="rso.example.org, other").stdout


def test_https_makes_cookies_safe(tmp_path: Path) -> None:
    code = "print(settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE, settings.SECURE_HSTS_SECONDS > 0)"
    assert started(tmp_path, code, RSO_HTTPS="1").stdout.split() == ["True"] * 3
    assert started(tmp_path, code).stdout.split() == ["False"] * 3


def test_the_embedded_database_s_address_is_found_in_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "database-url").write_text("postgresql://rso:x@/rso?host=/somewhere")
    code = "print(settings.DATABASES['default']['HOST'])"
    assert started(tmp_path, code).stdout.strip() == "/somewhere"
    assert started(tmp_path, code, DATABASE_URL="postgresql://a@db/b").stdout.strip() == "db"


def ids(tags: list[str] | None = None, **options: object) -> set[str | None]:
    return {message.id for message in checks.run_checks(tags=tags, **options)}  # type: ignore[arg-type]


def test_settings_that_do_not_fit_together_are_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {i for i in ids() if i and i.startswith("rso.")}
    monkeypatch.setitem(settings.DATABASES["default"], "HOST", "db.example")
    settings.CSRF_TRUSTED_ORIGINS = ["rso.example.org", "https://rso.example.org"]
    settings.ALLOWED_HOSTS = ["*"]
    assert ids() >= {"rso.W001", "rso.E003", "rso.W003", "rso.W004"}
    settings.CELERY_BROKER_URL = "amqp://broker"
    assert "rso.W002" in ids()
    settings.ARTIFACT_URL = "abfs://bucket"
    found = [message for message in checks.run_checks() if message.id == "rso.E002"]
    assert [message.msg for message in found] == ["ARTIFACT_URL begins with abfs://, which needs the package adlfs."]
    assert found[0].hint


def test_a_missing_database_is_said_where_one_is_needed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DATABASES["default"], "HOST", settings.NO_DATABASE)
    assert [message.id for message in check_database_is_named(["default"])] == ["rso.E001"]
    assert check_database_is_named(None) == []


def test_pages_come_with_a_policy_that_runs_no_script_of_a_page(client: Client, db: None) -> None:
    policy = client.get("/sign-in/").headers["Content-Security-Policy"]
    script = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert script == "script-src 'self'"
    assert "frame-ancestors 'none'" in policy
    assert "object-src 'none'" in policy


def body_of(client: Client, path: str) -> bytes:
    """Return what is served, and close the file it is read from."""
    served = client.get(path)
    assert served.status_code == 200
    body = b"".join(served.streaming_content)  # type: ignore[attr-defined]
    served.close()
    return body


@pytest.mark.django_db  # closing an answer looks at the connection that an earlier test may have opened
def test_charts_come_from_the_installed_package_and_nothing_else_of_it_is_served(client: Client) -> None:
    assert b"plotly.js v" in body_of(client, "/static/plotly/plotly.min.js")[:200]
    assert client.get("/static/plotly/widgetbundle.js").status_code == 404
    assert body_of(client, "/static/studio.css")


FORWARDED = """
import asyncio, httpx
from webapp.asgi import application
async def ask(**headers):
    transport = httpx.ASGITransport(application, client=("10.0.0.7", 4321))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return (await client.get("/static/icon.svg", headers=headers)).status_code
async def main():
    print(await ask(), await ask(**{"X-Forwarded-Proto": "https"}))
asyncio.run(main())
"""


@pytest.mark.parametrize(("proxies", "statuses"), [("", "301 301"), ("10.0.0.0/8", "301 200"), ("10.0.0.8", "301 301")])
def test_only_a_trusted_proxy_says_how_people_came(tmp_path: Path, proxies: str, statuses: str) -> None:
    done = started(tmp_path, FORWARDED, RSO_HTTPS="1", RSO_TRUSTED_PROXIES=proxies)
    assert done.stdout.strip() == statuses, done.stderr
