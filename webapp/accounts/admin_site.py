"""Django's admin: a plain view of the tables for admins. Everything is changed on the product's own pages."""

from typing import Any

from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase

from webapp.accounts.models import User


def _is_admin(request: HttpRequest) -> bool:
    user = request.user
    return isinstance(user, User) and user.is_active and user.is_admin


class StudioAdminSite(AdminSite):
    """Lets in who is an admin of the product; others sign in on the product's page."""

    site_title = site_header = "RSO Studio"
    index_title = "Tables, to look at"
    enable_nav_sidebar = False

    def has_permission(self, request: HttpRequest) -> bool:
        """Return whether this person is an admin."""
        return _is_admin(request)

    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponseBase:  # type: ignore[override]  # noqa: ARG002 - Django's signature
        """Send visitors to the sign-in page; tell the others why they are not let in."""
        if request.user.is_authenticated:
            message = "this page is for admins. Ask one of them for what you need changed."
            raise PermissionDenied(message)
        return redirect_to_login(request.GET.get("next") or "/admin/")


site = StudioAdminSite(name="admin")


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Shows rows; nothing is added, changed or deleted here, so that every rule has one place."""

    show_full_result_count = False  # counting every log line would be the slowest part of the page

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether this person is an admin."""
        return _is_admin(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        """Return whether this person is an admin."""
        return _is_admin(request)

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - Django's signature
        """Return that nobody adds rows here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        """Return that nobody changes rows here."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        """Return that nobody deletes rows here."""
        return False
