"""Addresses of human evaluation: campaigns and results for researchers, rating pages for raters, the playground."""

from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("campaigns/", include("webapp.human_eval.urls_campaigns")),
    path("campaigns/", include("webapp.human_eval.urls_results")),
    path("rate/", include("webapp.human_eval.urls_rating")),
]
