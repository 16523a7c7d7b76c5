"""The playground as a process of its own, for teams whose pages are served by several: `webapp.playground.asgi:application`.

Gradio keeps its sessions in one process, so the reverse proxy sends /playground/ to this one.
"""

import os
from typing import Any

import django
from django.conf import settings
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
django.setup()

from webapp.playground.mount import Playground, nothing_else  # noqa: E402 - needs the settings

_served: Any = Playground(nothing_else)
application = ProxyHeadersMiddleware(_served, trusted_hosts=settings.TRUSTED_PROXIES)
