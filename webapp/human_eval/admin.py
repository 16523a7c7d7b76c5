"""Campaigns, raters, and what they said, in Django's admin. Excluding and lifting follow `exclusions`; all else is to look at."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.admin import RelatedOnlyFieldListFilter, display, register
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path

from rso_core.errors import UserError
from webapp.accounts.admin_site import ReadOnlyAdmin, moment, site
from webapp.accounts.models import User
from webapp.human_eval import exclusions
from webapp.human_eval.models import (
    Answer,
    Campaign,
    Exclusion,
    Flag,
    Invitation,
    Item,
    PanelLink,
    Participation,
    Rater,
    Skip,
    Slot,
    System,
)

_BY_CAMPAIGN = ("campaign", RelatedOnlyFieldListFilter)
_FOUND_BY = "Campaign or rater"


def _item(label: str = "item") -> Callable[[Any], str]:
    """Return a column with the number of a row's item, which is read with the row."""

    @display(description=label, ordering="item__index")
    def shown(row: Any) -> str:
        return f"{row.item.number}"

    return shown


@register(Campaign, site=site)
class CampaignAdmin(ReadOnlyAdmin):
    """What is compared, of whom it is asked, and how often."""

    list_display = ("name", "status", "kind", "owner", "shared", "way", "replicas", "num_items", moment("created"))
    list_filter = ("status", "kind", "task", "shared")
    list_select_related = ("owner",)
    search_fields = ("name", "title", "owner__username")
    search_help_text = "Name, title or owner"
    date_hierarchy = "created"


@register(System, site=site)
class SystemAdmin(ReadOnlyAdmin):
    """What is compared: raters never see these names."""

    list_display = ("label", "campaign", "kind", "index", "run", "is_reference")
    list_filter = ("kind", _BY_CAMPAIGN)
    list_select_related = ("campaign", "run")
    search_fields = ("label", "campaign__name")


@register(Rater, site=site)
class RaterAdmin(ReadOnlyAdmin):
    """Who rates, by the pseudonym of the exports."""

    list_display = ("pseudonym", "origin", "user", "panel_id", moment("created", "came"))
    list_filter = ("origin",)
    list_select_related = ("user",)
    search_fields = ("pseudonym", "user__username", "panel_id")
    search_help_text = "Pseudonym, account or panel id"
    date_hierarchy = "created"


def _decided(
    model_admin: ReadOnlyAdmin, request: HttpRequest, pk: int, decide: Callable[[Any, User | None], str]
) -> HttpResponse:
    """Do with one row what was posted, say what came of it, and go back to the row."""
    row = model_admin.get_object(request, str(pk))
    if row is None or request.method != "POST":
        message = "this address takes what a button of the admin sends, about a row that is there."
        raise Http404(message)
    try:
        messages.success(request, decide(row, request.user if isinstance(request.user, User) else None))
    except UserError as error:
        messages.error(request, str(error))
    return redirect(f"admin:human_eval_{model_admin.opts.model_name}_change", pk)


@register(Participation, site=site)
class ParticipationAdmin(ReadOnlyAdmin):
    """Who takes part in what. A rater is excluded here as on the results page."""

    list_display = ("rater", "campaign", "qualification", moment("joined"), moment("consented"), moment("finished"))
    list_filter = ("qualification", _BY_CAMPAIGN)
    list_select_related = ("rater", "campaign")
    search_fields = ("rater__pseudonym", "campaign__name")
    search_help_text = _FOUND_BY
    date_hierarchy = "joined"

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        """Add the exclusion that holds now."""
        row: Participation = context["original"]
        held = Exclusion.objects.filter(campaign=row.campaign_id, rater=row.rater_id, lifted=None).first()
        return super().render_change_form(request, {**context, "exclusion": held}, *args, **kwargs)

    def get_urls(self) -> list[URLPattern]:
        """Add the address that excludes."""
        view = self.admin_site.admin_view(self.exclude_rater)
        return [path("<int:pk>/exclude/", view, name="human_eval_participation_exclude"), *super().get_urls()]

    def exclude_rater(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Exclude the rater from the campaign."""

        def decide(row: Participation, by: User | None) -> str:
            exclusions.exclude(row.campaign, row.rater, by=by, reason=request.POST.get("reason", ""))
            return f"{row.rater} is excluded from {row.campaign}; the results are computed again."

        return _decided(self, request, pk, decide)


@register(Exclusion, site=site)
class ExclusionAdmin(ReadOnlyAdmin):
    """Decisions not to count a rater's answers. They are lifted here as on the results page."""

    list_display = ("rater", "campaign", "reason", "by", moment("at", "when"), moment("lifted"), "lifted_by")
    list_filter = (_BY_CAMPAIGN,)
    list_select_related = ("rater", "campaign", "by", "lifted_by")
    search_fields = ("rater__pseudonym", "campaign__name", "reason")
    search_help_text = "Campaign, rater or reason"
    date_hierarchy = "at"

    def get_urls(self) -> list[URLPattern]:
        """Add the address that lifts."""
        view = self.admin_site.admin_view(self.lift_exclusion)
        return [path("<int:pk>/lift/", view, name="human_eval_exclusion_lift"), *super().get_urls()]

    def lift_exclusion(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Lift the exclusion."""

        def decide(row: Exclusion, by: User | None) -> str:
            exclusions.lift(row, by=by)
            return f"The exclusion of {row.rater} from {row.campaign} is lifted; the results are computed again."

        return _decided(self, request, pk, decide)


@register(Invitation, site=site)
class InvitationAdmin(ReadOnlyAdmin):
    """Links for one person each. Not even their hashes are shown."""

    list_display = (
        "campaign",
        "note",
        "created_by",
        moment("created"),
        moment("accepted"),
        "expires",
        "revoked",
        "rater",
    )
    list_filter = (_BY_CAMPAIGN,)
    list_select_related = ("campaign", "created_by", "rater")
    search_fields = ("note", "campaign__name", "rater__pseudonym")
    date_hierarchy = "created"
    exclude = ("token_hash",)


@register(PanelLink, site=site)
class PanelLinkAdmin(ReadOnlyAdmin):
    """Links for the participants of a panel."""

    list_display = ("campaign", "active", "id_parameter", moment("created"), "expires")
    list_filter = ("active",)
    list_select_related = ("campaign",)
    search_fields = ("campaign__name",)
    exclude = ("token_hash",)


@register(Item, site=site)
class ItemAdmin(ReadOnlyAdmin):
    """Prompts with their responses."""

    list_display = ("campaign", "index", "kind", "prompt_id", "root")
    list_filter = ("kind", _BY_CAMPAIGN)
    list_select_related = ("campaign",)
    search_fields = ("campaign__name", "prompt_id", "root")


@register(Slot, site=site)
class SlotAdmin(ReadOnlyAdmin):
    """Wanted replicas: what is claimed."""

    list_display = ("campaign", _item(), "number", "status", "rater", moment("claimed"), "lease_expires")
    list_filter = ("status", _BY_CAMPAIGN)
    list_select_related = ("campaign", "item", "rater")
    search_fields = ("campaign__name", "rater__pseudonym")
    search_help_text = _FOUND_BY
    exclude = ("token",)


@register(Answer, site=site)
class AnswerAdmin(ReadOnlyAdmin):
    """What raters said, by response index."""

    list_display = (
        "campaign", _item(), "rater", "standing", "quality_0", "quality_1", "quality_2", "choice", "same", moment("submitted"),
    )  # fmt: skip
    list_filter = ("submitted", "standing", "contradicts", _BY_CAMPAIGN)
    list_select_related = ("campaign", "item", "rater")
    search_fields = ("rater__pseudonym", "reason")
    search_help_text = "Rater or reason"


@register(Skip, site=site)
class SkipAdmin(ReadOnlyAdmin):
    """Items that a rater would rather not answer."""

    list_display = (_item(), "rater", "reason", "note", moment("at", "when"))
    list_filter = ("reason",)
    list_select_related = ("item", "rater")
    search_fields = ("rater__pseudonym", "note", "item__campaign__name")
    date_hierarchy = "at"


@register(Flag, site=site)
class FlagAdmin(ReadOnlyAdmin):
    """What raters want somebody to look at."""

    list_display = (_item(), "rater", "reason", "note", moment("at", "when"), moment("settled"))
    list_filter = ("reason",)
    list_select_related = ("item", "rater")
    search_fields = ("rater__pseudonym", "note", "item__campaign__name")
    date_hierarchy = "at"
