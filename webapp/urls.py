"""The addresses of the product."""

from django.urls import include, path

from webapp.accounts.admin_site import site

urlpatterns = [
    path("admin/", site.urls),
    path("", include("webapp.accounts.urls")),
    path("", include("webapp.runs.urls")),
    path("studies/", include("webapp.studies.urls")),
    path("", include("webapp.human_eval.urls")),
    path("", include("webapp.playground.urls")),
]
