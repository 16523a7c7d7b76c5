"""Studies in Django's admin."""

from django.contrib.admin import register

from webapp.accounts.admin_site import ReadOnlyAdmin, moment, site
from webapp.studies.models import Study, StudyCell


@register(Study, site=site)
class StudyAdmin(ReadOnlyAdmin):
    """Grids of runs."""

    list_display = ("name", "preset", "owner", "shared", "paused", moment("created"))
    list_filter = ("preset", "shared", "paused")
    list_select_related = ("owner",)
    date_hierarchy = "created"
    search_fields = ("name", "owner__username")


@register(StudyCell, site=site)
class StudyCellAdmin(ReadOnlyAdmin):
    """Arms at seeds."""

    list_display = ("study", "arm", "seed", "run", "message")
    list_select_related = ("study", "run")
    search_fields = ("study__name", "arm")
