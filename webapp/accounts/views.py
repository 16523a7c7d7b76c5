"""Sign-in, one-time links, the own account, and people."""

from django.contrib import messages
from django.contrib.auth import login, logout, update_session_auth_hash
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe

from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, admin_required, signed_in_required
from webapp.accounts.audit import address_of, record
from webapp.accounts.first_sign_in import redeem
from webapp.accounts.forms import ChangePasswordForm, NewPasswordForm, NewPersonForm, PersonForm, SignInForm
from webapp.accounts.models import User
from webapp.accounts.people import add_person, change_person, one_time_link

_BACKEND = "django.contrib.auth.backends.ModelBackend"


@never_cache
@sensitive_post_parameters("password")
def sign_in(request: HttpRequest) -> HttpResponseBase:
    """Ask for name and password, and go back to where the person wanted to be."""
    target = _target(request)
    if request.user.is_authenticated:
        return redirect(target)
    form = SignInForm(request, request.POST or None)
    if request.method == "POST" and form.is_valid() and form.user is not None:
        with transaction.atomic():
            login(request, form.user)
            record(form.user, "signed in", form.user, address=address_of(request))
        return redirect(target)
    return render(request, "accounts/sign_in.html", {"form": form, "next": target})


def _target(request: HttpRequest) -> str:
    """Return where to go after signing in: only to a page of this host."""
    target = request.POST.get("next") or request.GET.get("next") or ""
    hosts = {request.get_host()}
    return target if url_has_allowed_host_and_scheme(target, hosts, require_https=request.is_secure()) else "/"


@require_POST
def sign_out(request: HttpRequest) -> HttpResponseBase:
    """End the session."""
    if isinstance(request.user, User):
        record(request.user, "signed out", request.user)
    logout(request)
    return redirect("login")


@never_cache
@sensitive_post_parameters("new_password1", "new_password2")
@transaction.atomic
def first_sign_in(request: HttpRequest, token: str) -> HttpResponseBase:
    """Let somebody with a one-time link choose a password and sign in. Opening the link does not use it up."""
    user = redeem(token)
    if user is None:
        return render(request, "accounts/link_used.html", status=410)
    form = NewPasswordForm(user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        login(request, user, backend=_BACKEND)
        record(user, "chose a password", user, address=address_of(request))
        return redirect("home")
    response = render(request, "accounts/first_sign_in.html", {"form": form, "person": user})
    response["Referrer-Policy"] = "no-referrer"  # the address is the secret
    return response


@never_cache
@sensitive_post_parameters("old_password", "new_password1", "new_password2")
@signed_in_required
def account(request: SignedInRequest) -> HttpResponse:
    """Show who is signed in, what the role allows, and change the password."""
    form = ChangePasswordForm(request.user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            form.save()
            update_session_auth_hash(request, request.user)
            record(request.user, "changed the password", request.user)
        messages.success(request, "Your password was changed. Other devices are signed out.")
        return redirect("account")
    return render(request, "accounts/account.html", {"form": form})


@require_safe
@admin_required
def people(request: SignedInRequest) -> HttpResponse:
    """List everybody who may sign in."""
    return render(request, "accounts/people.html", {"people": User.objects.order_by("-is_active", "username")})


@admin_required
def new_person(request: SignedInRequest) -> HttpResponse:
    """Create an account and show its one-time link."""
    form = NewPersonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        person = add_person(**form.cleaned_data, by=request.user)
        return _person_with_link(request, person)
    return render(request, "accounts/new_person.html", {"form": form})


@never_cache
@admin_required
def person(request: SignedInRequest, pk: int) -> HttpResponse:
    """Change the role of an account, or switch it off."""
    someone = get_object_or_404(User, pk=pk)
    form = PersonForm(request.POST or None, instance=someone)
    if request.method == "POST" and form.is_valid():
        try:
            change_person(someone, **form.cleaned_data, by=request.user)
        except UserError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"{someone.username} was changed.")
            return redirect("people")
    link = request.session.pop(f"link-{pk}", "")  # shown once
    return render(request, "accounts/person.html", {"form": form, "person": someone, "link": link})


@require_POST
@admin_required
def new_link(request: SignedInRequest, pk: int) -> HttpResponse:
    """Make a one-time link for somebody who has lost theirs or forgotten the password."""
    return _person_with_link(request, get_object_or_404(User, pk=pk, is_active=True))


def _person_with_link(request: SignedInRequest, person: User) -> HttpResponse:
    request.session[f"link-{person.pk}"] = request.build_absolute_uri(one_time_link(person, by=request.user))
    return redirect("person", pk=person.pk)
