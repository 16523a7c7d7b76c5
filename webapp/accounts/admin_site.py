"""Django's admin for admins of the product: every table to look at, in the product's frame.

Nothing is added or deleted here. What can be changed goes through the functions that the product's own pages use, so
that every rule and every entry of the audit log has one place. The templates use none of Django's scripts and styles:
the content security policy is that of every other page.
"""

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any, ClassVar

from django.contrib.admin import AdminSite, ModelAdmin, ShowFacets, display
from django.contrib.admin.utils import unquote
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import smart_split, unescape_string_literal

from webapp.accounts.audit import kind_of
from webapp.accounts.models import User

_LOOKUPS = {"startswith", "contains"}  # what a searched field may end in


def _is_admin(request: HttpRequest) -> bool:
    user = request.user
    return isinstance(user, User) and user.is_active and user.is_admin


class StudioAdminSite(AdminSite):
    """Lets in who is an admin of the product; others sign in on the product's page."""

    site_title = site_header = "RSO Studio"
    index_title = "Admin"
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

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show what needs attention above the list of tables."""
        from webapp.human_eval.admin_overview import admin_overview  # knows every app, and so is above this one

        return super().index(request, {"overview": admin_overview(), **(extra_context or {})})

    def password_change(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:  # type: ignore[override]  # noqa: ARG002 - Django's signature
        """Send admins to the one page that changes a password."""
        return redirect("account")

    def logout(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:  # type: ignore[override]  # noqa: ARG002 - Django's signature
        """Leave signing out to the product's button."""
        return redirect("account")


site = StudioAdminSite(name="admin")


def moment(column: str, label: str = "") -> Callable[[Any], SafeString]:
    """Return a column that shows a time as "3 hours ago"."""

    @display(description=label or column.replace("_", " "), ordering=column)
    def shown(row: Model) -> SafeString:
        from webapp.runs.templatetags.studio import ago

        return ago(getattr(row, column))

    return shown


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[type-arg]
    """Shows rows; nothing is added, changed or deleted here, so that every rule has one place."""

    lede: ClassVar[str] = ""  # a sentence under the title of the list
    show_full_result_count = False  # counting every log line would be the slowest part of the page
    show_facets = ShowFacets.NEVER
    list_per_page = 50
    actions = None

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

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search as Django does, each word in any of the fields. Related rows are looked up once, not joined to every row."""
        for part in smart_split(search_term):
            word = unescape_string_literal(part) if part[0] in {'"', "'"} and part[-1] == part[0] else part
            found = (_holds(queryset.model, field, word) for field in self.get_search_fields(request))
            queryset = queryset.filter(reduce(or_, found, Q()))
        return queryset, False

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:  # noqa: ARG002 - Django's signature
        """Show what the audit log says of this row."""
        if not _is_admin(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            message = f"there is no {self.opts.verbose_name} {object_id}."
            raise Http404(message)
        return redirect(f"{reverse('audit_log')}?{urlencode({'kind': kind_of(row), 'number': row.pk})}")


def _holds(model: type[Model], field: str, word: str) -> Q:
    """Return the condition that a field, of the row or of a row it refers to, holds a word, whatever its case."""
    *steps, name = field.split("__")
    name, lookup = (steps.pop(), name) if name in _LOOKUPS else (name, "icontains")
    if not steps:
        return Q(**{f"{name}__{lookup}": word})
    for step in steps:
        model = model._meta.get_field(step).related_model  # type: ignore[assignment] # noqa: SLF001 - Django's public API
    found = model._default_manager.filter(**{f"{name}__{lookup}": word})  # noqa: SLF001 - Django's public API
    return Q(**{f"{'__'.join(steps)}__in": found.values("pk")})
