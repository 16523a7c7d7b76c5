"""Studies as Django sees them."""

from django.apps import AppConfig


class StudiesConfig(AppConfig):
    """Grids of runs; says what studies depend on."""

    name = "webapp.studies"
    verbose_name = "Studies"

    def ready(self) -> None:
        """Ask to be asked before something is deleted."""
        from webapp.runs.deletion import depends
        from webapp.studies.dependents import studies_of

        depends(studies_of)
