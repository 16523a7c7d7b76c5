"""System checks of settings that are right one by one and wrong together."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's name

_LOCAL_HOSTS = frozenset({"", "localhost", "127.0.0.1", "::1"})
# What a scheme of an artifact store or a broker needs beside what is always installed.
_PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
    "redis": "redis",
    "rediss": "redis",
    "redis+socket": "redis",
}


def _is_local_database() -> bool:
    host = settings.DATABASES["default"]["HOST"]
    return host in _LOCAL_HOSTS or host.startswith("/")


def _is_local_broker() -> bool:
    return settings.CELERY_BROKER_URL.startswith("filesystem:")


def _is_local_store() -> bool:
    return "://" not in settings.ARTIFACT_URL or settings.ARTIFACT_URL.startswith("file://")


@register(Tags.database)
def check_database_is_named(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """E001: there is a database to work with."""
    if not databases or settings.DATABASES["default"]["HOST"] != settings.NO_DATABASE:
        return []
    return [
        Error(
            "No database is configured.",
            hint="Set DATABASE_URL, or start the embedded one with `make up`; while it runs its address is known.",
            id="rso.E001",
        )
    ]


@register()
def check_packages_of_urls(**_: Any) -> list[CheckMessage]:
    """E002: what the schemes of ARTIFACT_URL and CELERY_BROKER_URL need is installed."""
    found: list[CheckMessage] = []
    for name in ("ARTIFACT_URL", "CELERY_BROKER_URL"):
        scheme = getattr(settings, name).partition("://")[0]
        package = _PACKAGES.get(scheme)
        if package and find_spec(package) is None:
            hint = f"Install it into this environment: pip install {package}"
            found.append(
                Error(f"{name} begins with {scheme}://, which needs the package {package}.", hint, id="rso.E002")
            )
    return found


@register()
def check_machines_share_what_they_must(**_: Any) -> list[CheckMessage]:
    """W001 and W002: with a database or a broker elsewhere, workers may be elsewhere too."""
    found: list[CheckMessage] = []
    if _is_local_broker() and not _is_local_database():
        hint = "Set CELERY_BROKER_URL to a Redis, Valkey or RabbitMQ server that all machines reach."
        found.append(
            Warning("The broker is a folder of this machine, but the database is elsewhere.", hint, id="rso.W001")
        )
    if _is_local_store() and not _is_local_broker():
        hint = "Set ARTIFACT_URL to an object store, or to a folder that all machines share; then silence rso.W002."
        found.append(
            Warning("Artifacts are in a local folder, but the broker serves many machines.", hint, id="rso.W002")
        )
    return found


@register(Tags.security)
def check_addresses(**_: Any) -> list[CheckMessage]:
    """E003, W003, W004: hosts and origins fit to how people reach the server."""
    found: list[CheckMessage] = []
    for origin in settings.CSRF_TRUSTED_ORIGINS:
        if not origin.startswith(("http://", "https://")):
            hint = "Write each as https://rso.example.org."
            found.append(Error(f"CSRF_TRUSTED_ORIGINS has {origin!r}, which is no origin.", hint, id="rso.E003"))
    if "*" in settings.ALLOWED_HOSTS:
        hint = "Name the hosts people type: ALLOWED_HOSTS=rso.example.org"
        found.append(Warning("ALLOWED_HOSTS lets every host through.", hint, id="rso.W003"))
    has_https = any(origin.startswith("https://") for origin in settings.CSRF_TRUSTED_ORIGINS)
    if has_https and not settings.SESSION_COOKIE_SECURE:
        hint = "Set RSO_HTTPS=1, so that cookies travel over HTTPS only."
        found.append(Warning("People come by HTTPS, but cookies may travel without it.", hint, id="rso.W004"))
    return found
