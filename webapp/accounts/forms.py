"""Forms of sign-in and accounts."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.auth import authenticate
from django.contrib.auth.forms import SetPasswordForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from webapp.accounts.audit import address_of, record
from webapp.accounts.models import Role, User
from webapp.accounts.throttle import WINDOW, forget_tries, may_try

if TYPE_CHECKING:
    UserModelForm = forms.ModelForm[User]
    UserPasswordForm = SetPasswordForm[User]
else:  # Django's own classes take no type
    UserModelForm, UserPasswordForm = forms.ModelForm, SetPasswordForm

ROLE_CHOICES = [
    (Role.RESEARCHER, "Researcher: imports data and models, launches runs, sees their own and shared ones"),
    (Role.RATER, "Rater: rates responses and sees nothing else"),
    (Role.ADMIN, "Admin: sees and changes everything, and adds people"),
]


class SignInForm(forms.Form):
    """Name and password. The message never says which of the two was wrong."""

    username = forms.CharField(
        label="User name",
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "username", "autocapitalize": "none", "autofocus": True}),
    )
    password = forms.CharField(
        strip=False, max_length=4096, widget=forms.PasswordInput(attrs={"autocomplete": "current-password"})
    )

    def __init__(self, request: HttpRequest, data: Any = None) -> None:
        super().__init__(data)
        self.request = request
        self.user: User | None = None

    def clean(self) -> dict[str, Any]:
        """Look the person up, unless this address has guessed too often."""
        values = super().clean() or self.cleaned_data
        if self.errors:
            return values
        address = address_of(self.request)
        if not may_try(address, values["username"]):
            minutes = int(WINDOW.total_seconds() // 60)
            message = f"Too many failed tries from your address. Wait up to {minutes} minutes, or ask an admin for a one-time link."
            raise ValidationError(message)
        user = authenticate(self.request, username=values["username"], password=values["password"])
        if not isinstance(user, User):
            _record_failure(values["username"], address)
            message = "User name and password do not match an active account. Both are case-sensitive."
            raise ValidationError(message)
        forget_tries(address, values["username"])
        self.user = user
        return values


def _record_failure(typed: str, address: str) -> None:
    """Write down that a sign-in failed. A name that nobody has is not kept: it may be a password."""
    person = User.objects.filter(username=typed).first()
    record(None, "failed to sign in", person or "account", address=address)


class NewPersonForm(UserModelForm):
    """A new account; `people.add_person` makes it."""

    role = forms.ChoiceField(choices=ROLE_CHOICES, widget=forms.RadioSelect, initial=Role.RESEARCHER)

    class Meta:
        model = User
        fields = ("username", "role")
        labels = {"username": "User name"}  # noqa: RUF012 - Django's Meta
        help_texts = {"username": "Letters, digits and @ . + - _"}  # noqa: RUF012 - Django's Meta


class PersonForm(UserModelForm):
    """Role and state of an account. `people.change_person` makes the change, and knows what must not happen."""

    role = forms.ChoiceField(choices=ROLE_CHOICES, widget=forms.RadioSelect)

    class Meta:
        model = User
        fields = ("role", "is_active")
        labels = {"is_active": "May sign in"}  # noqa: RUF012 - Django's Meta
        help_texts = {"is_active": "Switch off instead of deleting: what the person made stays, with their name."}  # noqa: RUF012 - Django's Meta


class NewPasswordForm(UserPasswordForm):
    """A new password, typed twice, for somebody who came by a one-time link."""


class ChangePasswordForm(NewPasswordForm):
    """A new password for somebody who knows the old one."""

    old_password = forms.CharField(
        label="Current password",
        strip=False,
        max_length=4096,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )
    field_order = ("old_password", "new_password1", "new_password2")

    def clean_old_password(self) -> str:
        """Refuse a wrong current password."""
        password: str = self.cleaned_data["old_password"]
        if not self.user.check_password(password):
            message = "This is not your current password."
            raise ValidationError(message)
        return password
