"""Who is let into a campaign: invitations, and the link of a panel."""

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.accounts.models import Role, User
from webapp.human_eval import services
from webapp.human_eval.forms_campaign_parts import InviteForm, PanelForm
from webapp.human_eval.models import Campaign, Invitation, PanelLink
from webapp.human_eval.views_campaigns import changeable, frame


@never_cache
@require_safe
@researcher_required
def campaign_access(request: SignedInRequest, pk: int) -> HttpResponse:
    """Show who may rate and how they get in."""
    return _access(request, changeable(request, pk))


def _access(request: SignedInRequest, item: Campaign, **changed: Any) -> HttpResponse:
    panel = PanelLink.objects.filter(campaign=item).first()
    invitations = Invitation.objects.filter(campaign=item).select_related("rater", "created_by")
    fields = PanelForm.base_fields
    context = {
        "page": Paginator(invitations, 50).get_page(request.GET.get("page")),
        "accounts": User.objects.filter(role=Role.RATER, is_active=True).count(),
        "panel": panel,
        "invite_form": InviteForm(),
        "panel_form": PanelForm(initial={name: getattr(panel, name) for name in fields} if panel else None),
    }
    return render(request, "human_eval/campaign_access.html", frame(request, item, "access") | context | changed)


@never_cache
@require_POST
@researcher_required
def invite(request: SignedInRequest, pk: int) -> HttpResponse:
    """Make invitations and show their links, this once."""
    item = changeable(request, pk)
    form = InviteForm(request.POST)
    if not form.is_valid():
        return _access(request, item, invite_form=form)
    tokens = services.invite_many(item, by=request.user, notes=form.invited, days=form.cleaned_data["days"])
    links = [
        (note, request.build_absolute_uri(reverse("rate_invitation", args=[token])))
        for note, token in zip(form.invited, tokens, strict=True)
    ]
    return _access(request, item, links=links)


@require_POST
@researcher_required
def revoke_invitation(request: SignedInRequest, pk: int, invitation: int) -> HttpResponse:
    """Make an invitation useless."""
    item = changeable(request, pk)
    services.revoke(get_object_or_404(Invitation, campaign=item, pk=invitation), by=request.user)
    messages.success(request, "The invitation was revoked: its link no longer works.")
    return redirect("campaign_access", pk)


@never_cache
@require_POST
@researcher_required
def save_panel(request: SignedInRequest, pk: int) -> HttpResponse:
    """Save the settings of the panel link; the first time its address is shown, this once."""
    item = changeable(request, pk)
    form = PanelForm(request.POST)
    if not form.is_valid():
        return _access(request, item, panel_form=form)
    is_new = not PanelLink.objects.filter(campaign=item).exists()
    services.set_panel_link(item, form.cleaned_data, by=request.user)
    if is_new:
        return _with_panel_address(request, item)
    messages.success(request, "The panel link was changed.")
    return redirect("campaign_access", pk)


@never_cache
@require_POST
@researcher_required
def renew_panel(request: SignedInRequest, pk: int) -> HttpResponse:
    """Give the panel link a new address and show it, this once."""
    item = changeable(request, pk)
    try:
        return _with_panel_address(request, item)
    except UserError as error:
        messages.error(request, str(error))
        return redirect("campaign_access", pk)


def _with_panel_address(request: SignedInRequest, item: Campaign) -> HttpResponse:
    token = services.renew_panel_link(item, by=request.user)
    panel = PanelLink.objects.get(campaign=item)
    address = request.build_absolute_uri(reverse("rate_panel", args=[token]))
    # Panels write the participant's id in the place of such words in double braces.
    query = f"{panel.id_parameter}={{{{%{panel.id_parameter}%}}}}"
    if panel.session_parameter:
        query += f"&{panel.session_parameter}={{{{%{panel.session_parameter}%}}}}"
    return _access(request, item, panel_address=f"{address}?{query}")
