"""The web application as one ASGI process.

Django runs on threads behind a WSGI bridge, so that each thread keeps its database connection: as ASGI handlers
its views would open one for every request. What many ask for often stands before it (`runs/shared_polls.py`). The playground, which is Gradio's, stands beside it in this process.
"""

import os
from typing import Any

from django.conf import settings
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from webapp.bridge import Bridge
from webapp.wsgi import application as django_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")


def _application() -> Any:
    from webapp.playground.mount import Playground  # these read people, who are there once the settings are
    from webapp.runs.shared_polls import SharedPolls

    bridged = Bridge(django_application, threads=settings.WEB_THREADS)
    served: Any = Playground(SharedPolls(bridged))
    return ProxyHeadersMiddleware(served, trusted_hosts=settings.TRUSTED_PROXIES)


application = _application()
