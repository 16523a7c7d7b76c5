"""Who rates: accounts of the role rater, and people without an account who came by an invitation or a panel link.

Whoever came by a link is remembered in the session by the key of their `Rater` and nothing else. Links are secrets of
which only the SHA-256 is stored. Opening one shows what it is and changes nothing; accepting it is a POST, and gives
the session a new key, so that nobody can plant a session on somebody else's browser beforehand.
"""

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponseBase
from django.middleware.csrf import rotate_token

from rso_core.errors import UserError
from webapp.accounts.models import Role, User
from webapp.human_eval.models import Campaign, Invitation, PanelLink, Participation, Rater
from webapp.human_eval.rows import columns, first_row, made_each
from webapp.runs.text import storable

P = ParamSpec("P")
_SESSION_KEY = "rater"
_LONGEST_ID = 200
_RESEARCHER = (
    "rating pages are for raters, and you are signed in as somebody who can see which system wrote what. Sign in with "
    "a rater's account, or open a rater's link in a private window."
)


class RaterRequest(HttpRequest):
    """A request of somebody who rates. `participation` is theirs in the campaign that the address is about."""

    rater: Rater
    participation: Participation | None


RaterView = Callable[Concatenate[RaterRequest, P], HttpResponseBase]
AnyView = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def private(view: AnyView[P]) -> AnyView[P]:
    """Keep the answer out of every cache, and without an ETag, which would tell texts apart without showing them."""

    @wraps(view)
    def uncached(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        response["Cache-Control"] = "no-store"
        return response

    return uncached


def rater_required(view: RaterView[P]) -> AnyView[P]:
    """Let raters in; send visitors to the sign-in page, and tell researchers why this page is not theirs."""

    @wraps(view)
    def checked(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        rater, participation = current_rater(request, kwargs.get("pk"))
        if rater is None:
            return redirect_to_login(request.get_full_path() if request.method == "GET" else "/rate/")
        request.rater, request.participation = rater, participation  # type: ignore[attr-defined]
        return view(request, *args, **kwargs)  # type: ignore[arg-type]

    return private(checked)


def current_rater(request: HttpRequest, campaign: Any = None) -> tuple[Rater | None, Participation | None]:
    """Return who rates in this session and what ties them to a campaign.

    Raises PermissionDenied for a researcher, whose eyes are not blind.
    """
    if request.user.is_authenticated:
        if request.user.role != Role.RATER or request.user.is_admin:
            raise PermissionDenied(_RESEARCHER)
        known = _rater("rater.user_id", request.user.pk, campaign)
        return known if known[0] is not None else (_of_account(request.user), None)
    key = request.session.get(_SESSION_KEY)
    return (None, None) if key is None else _rater("rater.id", key, campaign)


def _of_account(user: User) -> Rater:
    return Rater.objects.get_or_create(user=user, defaults={"origin": Rater.Origin.ACCOUNT})[0]


_RATER = f"""
SELECT {columns(Rater, "rater")}, {columns(Participation, "part")}, {columns(Campaign, "campaign")}
FROM human_eval_rater AS rater
LEFT JOIN human_eval_participation AS part ON part.rater_id = rater.id AND part.campaign_id = %(campaign)s
LEFT JOIN human_eval_campaign AS campaign ON campaign.id = part.campaign_id
WHERE {{column}} = %(key)s
  AND NOT EXISTS (SELECT FROM human_eval_invitation WHERE rater_id = rater.id AND revoked IS NOT NULL)
"""  # noqa: S608 - made of this module's own words


def _rater(column: str, key: int, pk: Any) -> tuple[Rater | None, Participation | None]:
    """Return a rater whose invitation, if they came by one, was not revoked, with their participation and its campaign."""
    row = first_row(_RATER.format(column=column), {"key": key, "campaign": pk})
    if row is None:
        return None, None
    rater, part, campaign = made_each((Rater, Participation, Campaign), row)
    if part is not None:
        part.campaign, part.rater = campaign, rater
    return rater, part


def open_to(rater: Rater) -> list[Campaign]:
    """Return the campaigns this rater may look at: accounts see every open one, others those they were let into."""
    joined = Q(participations__rater=rater)
    may = joined | Q(status=Campaign.Status.OPEN) if rater.origin == Rater.Origin.ACCOUNT else joined
    shown = Campaign.objects.filter(may, kind=Campaign.Kind.CAMPAIGN).exclude(status=Campaign.Status.DRAFT)
    return list(shown.distinct().order_by("-opened", "-pk"))


def campaign_of(request: RaterRequest, pk: int) -> tuple[Campaign, Participation | None] | None:
    """Return a campaign the rater may open with what ties them to it; None when there is nothing for them there."""
    if request.participation is not None:
        campaign = request.participation.campaign
        shown = campaign.kind == Campaign.Kind.CAMPAIGN and campaign.status != Campaign.Status.DRAFT
        return (campaign, request.participation) if shown else None
    open_to_all = Campaign.objects.filter(pk=pk, kind=Campaign.Kind.CAMPAIGN, status=Campaign.Status.OPEN)
    found = open_to_all.first() if request.rater.origin == Rater.Origin.ACCOUNT else None
    return (found, None) if found is not None else None


# Links ----------------------------------------------------------------------------------------------------------------


def token_hash(token: str) -> str:
    """Return what is stored of a link's token."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def usable_invitation(token: str) -> Invitation | None:
    """Return the invitation of a token; None when it is unknown, expired or revoked."""
    found = Invitation.objects.filter(token_hash=token_hash(token), revoked=None, expires__gt=Now())
    return found.select_related("campaign").first()


def usable_panel_link(token: str) -> PanelLink | None:
    """Return the panel link of a token; None when it is unknown, expired or switched off."""
    found = PanelLink.objects.filter(token_hash=token_hash(token), active=True)
    return found.filter(Q(expires=None) | Q(expires__gt=Now())).select_related("campaign").first()


@transaction.atomic
def accept_invitation(token: str) -> tuple[Rater, Campaign] | None:
    """Let the one person of an invitation in. Accepted again it leads to the same rater: the link is their key."""
    found = usable_invitation(token)
    if found is None:
        return None
    invitation = Invitation.objects.select_for_update().get(pk=found.pk)
    if invitation.rater is None:
        invitation.rater = Rater.objects.create(origin=Rater.Origin.INVITATION)
        Invitation.objects.filter(pk=invitation.pk).update(rater=invitation.rater, accepted=Now())
    Participation.objects.get_or_create(campaign=found.campaign, rater=invitation.rater)
    return invitation.rater, found.campaign


def panel_participant(value: str) -> str:
    """Return a panel's participant id as it is stored. Raises UserError for what cannot be one."""
    text = value.strip()
    if not text or len(text) > _LONGEST_ID or "{" in text or not text.isprintable():
        message = (
            f"a participant id of 1 to {_LONGEST_ID} printable characters is needed, without braces, and "
            f"{text[:40]!r} was received; open the link from the panel's own page, or type the id it shows you"
        )
        raise UserError(message)
    return text


@transaction.atomic
def accept_panel(link: PanelLink, participant: str, panel_session: str) -> Rater:
    """Let a participant of a panel in; the same participant id is the same rater whenever they come."""
    rater, _ = Rater.objects.get_or_create(panel_id=participant, defaults={"origin": Rater.Origin.PANEL})
    session = storable(panel_session)[:_LONGEST_ID]
    Participation.objects.update_or_create(
        campaign=link.campaign,
        rater=rater,
        defaults={"panel_session": session} if session else {},
    )
    return rater


def remember(request: HttpRequest, rater: Rater) -> None:
    """Make this session the rater's, under a new key."""
    if request.session.get(_SESSION_KEY) not in {None, rater.pk}:
        request.session.flush()  # another person before: nothing of theirs is left
    request.session[_SESSION_KEY] = rater.pk
    request.session.cycle_key()
    rotate_token(request)
