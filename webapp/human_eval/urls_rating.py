"""Addresses of the rating pages."""

from django.urls import URLPattern, URLResolver, path

from webapp.human_eval import views_rater_links as links
from webapp.human_eval import views_rating as views
from webapp.human_eval import views_rating_actions as actions
from webapp.human_eval import views_rating_answers as answers

urlpatterns: list[URLPattern | URLResolver] = [
    path("", views.rate, name="rate"),
    path("<int:pk>/", views.rate_campaign, name="rate_campaign"),
    path("<int:pk>/join/", views.rate_join, name="rate_join"),
    path("<int:pk>/ahead/", actions.rate_ahead, name="rate_ahead"),
    path("<int:pk>/heartbeat/", actions.rate_heartbeat, name="rate_heartbeat"),
    path("<int:pk>/skip/", actions.rate_skip, name="rate_skip"),
    path("<int:pk>/flag/", actions.rate_flag, name="rate_flag"),
    path("<int:pk>/last/", answers.rate_last, name="rate_last"),
    path("<int:pk>/feedback/", views.rate_feedback, name="rate_feedback"),
    path("<int:pk>/waiting/", views.rate_waiting, name="rate_waiting"),
    path("invitation/<str:token>/", links.rate_invitation, name="rate_invitation"),
    path("panel/<str:token>/", links.rate_panel, name="rate_panel"),
]
