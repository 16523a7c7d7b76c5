"""Deployment settings: every value comes from the environment or from the data folder.

`deploy/env.example` lists the variables. Rules over several settings are system checks, in `webapp/checks.py`.
"""

import os
import sys
from pathlib import Path
from typing import Any

from csp.constants import NONCE, NONE, SELF, UNSAFE_INLINE

from webapp.environment import (
    database,
    envbool,
    envchoice,
    envcommand,
    envfloat,
    envfolder_or_url,
    envint,
    envlist,
    envpath,
    envsecret,
    envurl,
    kept_value,
    made_folder,
)

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = made_folder("RSO_VAR_DIR", envpath("RSO_VAR_DIR", BASE_DIR / "var"))

# Libraries that would look outside. Whoever wants models and datasets from the hub sets HF_HUB_OFFLINE=0.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(_name, _value)

SECRET_KEY = envsecret("SECRET_KEY", VAR_DIR / "secrets" / "secret-key")
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *envlist("ALLOWED_HOSTS")]
CSRF_TRUSTED_ORIGINS = envlist("CSRF_TRUSTED_ORIGINS")

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "csp",
    "django_htmx",
    "webapp",
    "webapp.accounts",
    "webapp.runs",
    "webapp.studies",
    "webapp.human_eval",
    "webapp.playground",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "webapp.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "csp.context_processors.nonce",
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# The address of the embedded database is in the data folder while it runs, for commands beside the product. Without
# any address there is a place where nothing listens, so that commands which need no database work (see rso.E001).
NO_DATABASE = str(VAR_DIR / "no-database")
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "rso",
        "HOST": NO_DATABASE,
        **database("DATABASE_URL", kept_value(VAR_DIR / "database-url")),
        "CONN_MAX_AGE": envint("RSO_CONNECTION_SECONDS", 600, minimum=0),
        "CONN_HEALTH_CHECKS": True,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"

# Files of the product are served by the web process as they are; there is no step that collects them.
STATIC_URL = "/static/"
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "webapp.static_files.PlotlyFinder",
]
WHITENOISE_USE_FINDERS = True

# Uploads: counted while they arrive, kept beside the artifacts so that keeping one is a rename.
MAX_UPLOAD_BYTES = envint("RSO_MAX_UPLOAD_BYTES", 2 << 30, minimum=1)
FILE_UPLOAD_TEMP_DIR = made_folder("RSO_VAR_DIR", VAR_DIR / "uploads")
FILE_UPLOAD_HANDLERS = [
    "webapp.runs.uploads.QuotaUploadHandler",
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]

# What a browser may do. Charts set styles inline; no script ever stands in a page.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, UNSAFE_INLINE],
        "img-src": [SELF, "data:", "blob:"],
        "font-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SESSION_ENGINE = "webapp.accounts.sessions"
SESSION_COOKIE_AGE = 14 * 24 * 3600
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# Whose word about the client's address and scheme is taken (X-Forwarded-For, X-Forwarded-Proto); "" is nobody's.
TRUSTED_PROXIES = envlist("RSO_TRUSTED_PROXIES")
_https = envbool("RSO_HTTPS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = _https
SECURE_HSTS_SECONDS = envint("RSO_HSTS_SECONDS", 3600, minimum=0) if _https else 0
WEB_THREADS = envint("RSO_WEB_THREADS", 16, minimum=1)

# Work: how long a worker that is not heard of keeps it, how long before the first retry, threads of a runner.
CELERY_BROKER_URL = envurl("CELERY_BROKER_URL", "filesystem://")
ARTIFACT_URL = envfolder_or_url("ARTIFACT_URL", VAR_DIR / "artifacts")
ARTIFACT_CACHE = str(envpath("RSO_ARTIFACT_CACHE", VAR_DIR / "artifact-cache"))
LEASE_SECONDS = envfloat("RSO_LEASE_SECONDS", 60, minimum=1)
RETRY_SECONDS = envfloat("RSO_RETRY_SECONDS", 5, minimum=0)
RUNNER_THREADS = envint("RSO_THREADS", os.cpu_count() or 1, minimum=1)
TRAINING_PROCESSES = envint("RSO_TRAINING_PROCESSES", 1, minimum=1)
# How a runner is started, for sites that put it under a scheduler or a resource limit.
RUNNER_COMMAND = envcommand("RSO_RUNNER_COMMAND", (sys.executable, "-m", "rso_core.runner"))

_level = envchoice("RSO_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "webapp": {"level": _level},
        "workers": {"level": _level},
        "django.server": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
