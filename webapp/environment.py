"""Typed readers of environment variables, and secrets that are made at the first start.

A value that cannot be read raises `ImproperlyConfigured` with the variable, what it must be and what it was. An
empty variable counts as unset, as compose files and systemd units leave them empty.
"""

import contextlib
import math
import os
import secrets
import shlex
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_POSTGRES = frozenset({"postgresql", "postgres"})


def _refuse(name: str, required: str) -> NoReturn:
    message = f"{name} must be {required}, got {os.environ[name]!r}"
    raise ImproperlyConfigured(message)


def envstr(name: str, default: str = "") -> str:
    """Return the value of a variable."""
    return os.environ.get(name) or default


def envlist(name: str, default: tuple[str, ...] = ()) -> list[str]:
    """Return the items of a comma-separated list."""
    return [item.strip() for item in envstr(name).split(",") if item.strip()] or list(default)


def envbool(name: str, *, default: bool) -> bool:
    """Return a switch: 1, true, yes, on or 0, false, no, off."""
    value = envstr(name).strip().lower()
    if value and value not in _TRUE | _FALSE:
        _refuse(name, "one of 1, true, yes, on, 0, false, no, off")
    return value in _TRUE if value else default


def envint(name: str, default: int, *, minimum: int) -> int:
    """Return a whole number that is at least `minimum`."""
    try:
        value = int(envstr(name, str(default)))
    except ValueError:
        _refuse(name, f"a whole number of at least {minimum}")
    if value < minimum:
        _refuse(name, f"a whole number of at least {minimum}")
    return value


def envfloat(name: str, default: float, *, minimum: float) -> float:
    """Return a finite number that is at least `minimum`."""
    try:
        value = float(envstr(name, str(default)))
    except ValueError:
        _refuse(name, f"a number of at least {minimum:g}")
    if not math.isfinite(value) or value < minimum:
        _refuse(name, f"a number of at least {minimum:g}")
    return value


def envpath(name: str, default: Path) -> Path:
    """Return an absolute path; ~ is the home folder."""
    value = envstr(name, str(default))
    if "\0" in value or "://" in value:
        _refuse(name, "a path of this machine")
    return Path(value).expanduser().absolute()


def envurl(name: str, default: str, *, schemes: tuple[str, ...] = ()) -> str:
    """Return a URL with one of these schemes, or with any scheme when none are given."""
    value = envstr(name, default)
    if os.environ.get(name):
        scheme, found, _ = value.partition("://")
        if not found or not scheme or (schemes and scheme not in schemes):
            _refuse(name, f"a URL that begins with {' or '.join(f'{s}://' for s in schemes) or 'a scheme and ://'}")
    return value


def envfolder_or_url(name: str, default: Path) -> str:
    """Return a URL, or the absolute path of a folder."""
    value = envstr(name)
    return value if "://" in value else str(envpath(name, default))


def database(name: str, default: str = "") -> dict[str, Any]:
    """Return Django's database settings from a URL; {} when there is none.

    `postgresql://user:password@host:port/name?sslmode=require`; a Unix socket is named by `?host=/folder`, and
    every other parameter is passed on to the driver.
    """
    value = envstr(name, default)
    if not value:
        return {}
    required = "a URL such as postgresql://user:password@host:5432/name?sslmode=require"
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        _refuse_secret(name, required)
    if url.scheme not in _POSTGRES or not url.path.strip("/"):
        _refuse_secret(name, required)
    return _database(url, port)


def _refuse_secret(name: str, required: str) -> NoReturn:
    # The value holds a password, which must not end up in a log.
    message = f"{name} must be {required}, got a value that begins with {os.environ.get(name, '')[:10]!r}"
    raise ImproperlyConfigured(message)


def _database(url: SplitResult, port: int | None) -> dict[str, Any]:
    options = dict(parse_qsl(url.query))
    host = options.pop("host", None) or unquote(url.hostname or "")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(url.path.strip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": host,
        "PORT": options.pop("port", None) or str(port or ""),
        "OPTIONS": options,
    }


def made_folder(name: str, path: Path) -> Path:
    """Return a folder under the place that variable `name` sets, made if need be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{name} must name a folder that this process may write to; {path} cannot be made: {error}"
        raise ImproperlyConfigured(message) from error
    return path


def kept_value(file: Path) -> str:
    """Return what a file holds; "" when there is none."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        message = f"{file} cannot be read: {error}"
        raise ImproperlyConfigured(message) from error


def envchoice(name: str, default: str, choices: tuple[str, ...]) -> str:
    """Return one of the choices."""
    value = envstr(name, default)
    if value not in choices:
        _refuse(name, f"one of {', '.join(choices)}")
    return value


def envcommand(name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command with its arguments, quoted as for a shell."""
    try:
        return tuple(shlex.split(envstr(name))) or default
    except ValueError as error:
        _refuse(name, f"a command as one would type it ({error})")


def envsecret(name: str, file: Path) -> str:
    """Return the secret in the variable, else in the file that NAME_FILE names, else in `file`, made if need be."""
    if value := envstr(name):
        return value
    if named := envstr(f"{name}_FILE"):
        return _read_secret(f"{name}_FILE", Path(named))
    try:
        return made_secret(file)
    except OSError as error:
        message = f"{name} is not set, and the file that would keep a generated one cannot be used: {error}"
        raise ImproperlyConfigured(message) from error


def _read_secret(name: str, path: Path) -> str:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{name} must name a readable text file, got {str(path)!r}: {error}"
        raise ImproperlyConfigured(message) from error
    if not value:
        _refuse(name, "the path of a file that is not empty")
    return value


def made_secret(file: Path) -> str:
    """Return the secret in `file`; at the first start it is random, and only this user may read it."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = file.with_name(f"{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:  # noqa: PTH123 - the mode must be right from the first byte
            out.write(secrets.token_urlsafe(50))
        # A link, not a rename: of two processes that start at once, the second takes the first one's secret.
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(draft)
        draft.unlink()
    return file.read_text(encoding="ascii").strip()
