"""People and the audit log in Django's admin."""

import json
from typing import Any

from django.contrib import messages
from django.contrib.admin import display, register
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.html import format_html
from django.utils.safestring import SafeString

from rso_core.errors import UserError
from webapp.accounts.admin_site import ReadOnlyAdmin, moment, site
from webapp.accounts.forms import PersonForm
from webapp.accounts.models import AuditEntry, User
from webapp.accounts.people import change_person


@register(User, site=site)
class UserAdmin(ReadOnlyAdmin):
    """Who may sign in. Role and state are changed by the rules of the People page; the password's hash stays out."""

    lede = "Who may sign in. People are added, and get one-time links, on the People page."
    form = PersonForm
    list_display = (
        "username",
        "role",
        "is_active",
        moment("last_login", "last sign-in"),
        moment("date_joined", "added"),
    )
    list_filter = ("role", "is_active")
    search_fields = ("username",)
    search_help_text = "User name"
    date_hierarchy = "date_joined"
    fields = ("username", "role", "is_active", "last_login", "date_joined")
    readonly_fields = ("username", "last_login", "date_joined")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this person is an admin."""
        return self.has_view_permission(request, obj)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        """Show the form, or the reason why a change is refused."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except UserError as error:
            messages.error(request, str(error))
            return redirect(request.path)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:  # noqa: ARG002, FBT001 - Django's signature
        """Change the person as the People page does."""
        by = request.user if isinstance(request.user, User) else None
        change_person(User.objects.get(pk=obj.pk), **form.cleaned_data, by=by)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:  # type: ignore[override]
        """Write nothing: the audit log has it already."""

    def response_change(self, request: HttpRequest, obj: User) -> HttpResponse:
        """Say that it was changed and go back to the list."""
        messages.success(request, f"{obj.username} was changed.")
        return redirect("admin:accounts_user_changelist")


@register(AuditEntry, site=site)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Who did what to what, and when."""

    lede = "Who did what to what, and when. The database refuses to change these rows."
    list_display = (moment("at", "when"), "actor_name", "action", "kind", "label", "shown_details")
    # No drill-down by date: it would read all entries that a search finds three times more.
    list_filter = ("at", "action", "kind")
    search_fields = ("label__contains",)
    search_help_text = "Part of the name of the thing, capitals as written"
    fields = ("at", "actor_name", "action", "kind", "number", "label", "details")

    @display(description="details")
    def shown_details(self, entry: AuditEntry) -> SafeString:
        """Return the details as one line of JSON."""
        return format_html("<code>{}</code>", json.dumps(entry.details, ensure_ascii=False)) if entry.details else ""  # type: ignore[return-value]
