"""Datasets, models, runs, stages and workers in Django's admin."""

from django.contrib.admin import register

from webapp.accounts.admin_site import ReadOnlyAdmin, moment, site
from webapp.runs.models import Dataset, RegisteredModel, Run, Shard, Stage, Worker


@register(Dataset, site=site)
class DatasetAdmin(ReadOnlyAdmin):
    """Imported data."""

    list_display = ("name", "kind", "owner", "shared", "rows_kept", "rows_rejected", moment("created"))
    list_filter = ("kind", "task", "shared")
    list_select_related = ("owner",)
    date_hierarchy = "created"
    search_fields = ("name", "source")


@register(RegisteredModel, site=site)
class RegisteredModelAdmin(ReadOnlyAdmin):
    """Language models."""

    list_display = ("name", "family", "owner", "shared", moment("created"))
    list_filter = ("family", "shared")
    list_select_related = ("owner",)
    date_hierarchy = "created"
    search_fields = ("name", "source")


@register(Run, site=site)
class RunAdmin(ReadOnlyAdmin):
    """Recipes somebody launched."""

    list_display = ("name", "status", "owner", "shared", moment("created"), moment("finished"))
    list_filter = ("status", "shared")
    list_select_related = ("owner",)
    date_hierarchy = "created"
    search_fields = ("name", "owner__username")


@register(Stage, site=site)
class StageAdmin(ReadOnlyAdmin):
    """Pieces of work, shared by runs."""

    list_display = ("kind", "fingerprint", "status", "queue", moment("created"), moment("finished"))
    list_filter = ("created", "status", "queue", "kind")
    search_fields = ("fingerprint__startswith", "digest__startswith")
    search_help_text = "Beginning of a fingerprint or digest"


@register(Shard, site=site)
class ShardAdmin(ReadOnlyAdmin):
    """What workers claim."""

    list_display = ("stage", "index", "status", "attempt", "failures", "worker", "lease_expires")
    list_filter = ("status", "worker")
    list_select_related = ("stage",)
    search_fields = ("stage__fingerprint__startswith",)  # found by an index
    search_help_text = "Beginning of the stage's fingerprint"


@register(Worker, site=site)
class WorkerAdmin(ReadOnlyAdmin):
    """Processes that have been seen."""

    list_display = ("name", "queue", "slots", "device", moment("seen"))
    list_filter = ("queue",)
    search_fields = ("name", "device")
