"""Links by which people without an account come to rate: invitations, and links of a panel."""

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods

from rso_core.errors import UserError
from webapp.accounts.models import Role
from webapp.human_eval.rater_access import (
    accept_invitation,
    accept_panel,
    panel_participant,
    private,
    remember,
    usable_invitation,
    usable_panel_link,
)

_GONE = 410


@require_http_methods(["GET", "HEAD", "POST"])
@private
@sensitive_variables("token")
def rate_invitation(request: HttpRequest, token: str) -> HttpResponseBase:
    """Show what an invitation is for; accepting it is a POST, so a mail scanner that follows the link does no harm."""
    if request.method == "POST" and not request.user.is_authenticated:
        accepted = accept_invitation(token)
        if accepted is None:
            return _over(request)
        rater, campaign = accepted
        remember(request, rater)
        return _unreferred(redirect("rate_campaign", campaign.pk))
    invitation = usable_invitation(token)
    if invitation is None:
        return _over(request)
    context = {"campaign": invitation.campaign, "invitation": invitation, "signed_in": _signed_in(request)}
    return _unreferred(render(request, "human_eval/rate_invitation.html", context))


@require_http_methods(["GET", "HEAD", "POST"])
@private
@sensitive_variables("token")
def rate_panel(request: HttpRequest, token: str) -> HttpResponseBase:
    """Show a participant of a panel what the link is for; who they are stands in the address, or is typed."""
    link = usable_panel_link(token)
    if link is None:
        return _over(request)
    sent = request.POST if request.method == "POST" else request.GET
    typed, session = sent.get(link.id_parameter, ""), sent.get(link.session_parameter or "-", "")
    problem = ""
    try:
        participant = panel_participant(typed)
        if request.method == "POST" and not request.user.is_authenticated:
            remember(request, accept_panel(link, participant, session))
            return _unreferred(redirect("rate_campaign", link.campaign_id))
    except UserError as error:
        participant, problem = "", str(error) if typed or request.method == "POST" else ""
    context = {"link": link, "campaign": link.campaign, "participant": participant, "session": session}
    context |= {"problem": problem, "signed_in": _signed_in(request)}
    return _unreferred(render(request, "human_eval/rate_panel.html", context))


def _signed_in(request: HttpRequest) -> str:
    """Return whose account is signed in, which a link without accounts does not go with: rater, researcher or nobody's."""
    if not request.user.is_authenticated:
        return ""
    return "rater" if request.user.role == Role.RATER else "researcher"


def _over(request: HttpRequest) -> HttpResponse:
    return _unreferred(render(request, "human_eval/rate_link_over.html", status=_GONE))


def _unreferred(response: HttpResponse) -> HttpResponse:
    """Let no other address learn this one, which is the secret, as a referrer.

    The pages themselves say strict-origin: with no-referrer a browser hides the origin of the form as well, and the
    check against forged forms would refuse it.
    """
    response["Referrer-Policy"] = "no-referrer"
    return response
