"""Deployment settings: every value comes from the environment or from the data folder."""

import os
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = Path(os.environ.get("RSO_VAR_DIR", BASE_DIR / "var"))
SECRET_KEY = os.environ.get("SECRET_KEY", "replaced-by-generated-secret")
DEBUG = False
ALLOWED_HOSTS = ["*"]
AUTH_USER_MODEL = "accounts.User"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "webapp.accounts",
    "webapp.runs",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
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
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
_url = urlparse(os.environ.get("DATABASE_URL", ""))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.path.lstrip("/") or "rso",
        "USER": unquote(_url.username or ""),
        "PASSWORD": unquote(_url.password or ""),
        "HOST": _url.hostname or "",
        "PORT": str(_url.port or ""),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "webapp" / "static"]
STATIC_ROOT = VAR_DIR / "static"
ARTIFACT_URL = os.environ.get("ARTIFACT_URL", str(VAR_DIR / "artifacts"))
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "")
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
# Work: how long a worker that is not heard of keeps it, how long before the first retry, threads of a runner.
LEASE_SECONDS = float(os.environ.get("RSO_LEASE_SECONDS", "60"))
RETRY_SECONDS = float(os.environ.get("RSO_RETRY_SECONDS", "5"))
RUNNER_THREADS = int(os.environ.get("RSO_THREADS") or os.cpu_count() or 1)
ARTIFACT_CACHE = os.environ.get("RSO_ARTIFACT_CACHE", str(VAR_DIR / "artifact-cache"))
# How a runner is started, for sites that put it under a scheduler or a resource limit.
RUNNER_COMMAND = tuple(shlex.split(os.environ.get("RSO_RUNNER_COMMAND", ""))) or (
    sys.executable,
    "-m",
    "rso_core.runner",
)
# Files that people upload: larger ones are stopped while they arrive, whatever length the browser declared.
MAX_UPLOAD_BYTES = int(os.environ.get("RSO_MAX_UPLOAD_BYTES", str(4 * 10**9)))
FILE_UPLOAD_HANDLERS = [
    "webapp.runs.uploads.QuotaUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]
