"""Who may open a page. Every view of the product is behind one of these decorators."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase

from webapp.accounts.models import User

P = ParamSpec("P")


class SignedInRequest(HttpRequest):
    """A request of somebody who has signed in."""

    user: User


View = Callable[Concatenate[SignedInRequest, P], HttpResponseBase]
AnyView = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def signed_in_required(view: View[P]) -> AnyView[P]:
    """Send visitors to the sign-in page and bring them back afterwards."""
    return _allow(view, lambda _: True, "")


def researcher_required(view: View[P]) -> AnyView[P]:
    """Let researchers and admins in. Raters see nothing of datasets, models and runs."""
    return _allow(
        view,
        lambda user: user.may_research,
        "this page is for researchers, and your account is a rater's. Ask an admin if you need another role.",
    )


def admin_required(view: View[P]) -> AnyView[P]:
    """Let admins in."""
    return _allow(
        view, lambda user: user.is_admin, "this page is for admins. Ask one of them for what you need changed."
    )


def _allow(view: View[P], may: Callable[[User], bool], otherwise: str) -> AnyView[P]:
    @wraps(view)
    def checked(request: SignedInRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        if not may(request.user):
            raise PermissionDenied(otherwise)
        return view(request, *args, **kwargs)

    return login_required(checked)  # type: ignore[return-value]
