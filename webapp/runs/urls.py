"""Addresses of datasets, models and runs."""

from django.urls import path

from webapp.runs import views_datasets, views_home, views_models

urlpatterns = [
    path("", views_home.home, name="home"),
    path("home/live/", views_home.home_live, name="home_live"),
    path("datasets/", views_datasets.datasets, name="datasets"),
    path("models/", views_models.models, name="models"),
    path("models/new/", views_models.new_model, name="new_model"),
    path("models/<int:pk>/", views_models.model, name="model"),
    path("models/<int:pk>/status/", views_models.model_status, name="model_status"),
    path("models/<int:pk>/share/", views_models.share_model, name="share_model"),
    path("models/<int:pk>/retry/", views_models.retry_model, name="retry_model"),
    path("models/<int:pk>/remove/", views_models.remove_model, name="remove_model"),
]
