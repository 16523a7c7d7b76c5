"""Studies as Django sees them."""

from django.apps import AppConfig


class StudiesConfig(AppConfig):
    """Grids of runs."""

    name = "webapp.studies"
    verbose_name = "Studies"
