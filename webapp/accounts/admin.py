"""People in Django's admin."""

from django.contrib.admin import register

from webapp.accounts.admin_site import ReadOnlyAdmin, site
from webapp.accounts.models import User


@register(User, site=site)
class UserAdmin(ReadOnlyAdmin):
    """Who may sign in. The password's hash stays out."""

    list_display = ("username", "role", "is_active", "last_login", "date_joined")
    list_filter = ("role", "is_active")
    search_fields = ("username",)
    fields = ("username", "role", "is_active", "last_login", "date_joined")
