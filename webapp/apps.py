"""The web application as Django sees it: shared static files, commands and system checks."""

from django.apps import AppConfig


class WebappConfig(AppConfig):
    """Registers the checks of deployment settings."""

    name = "webapp"

    def ready(self) -> None:
        """Make the checks known to Django."""
        from webapp import checks  # noqa: F401 - importing it registers them
