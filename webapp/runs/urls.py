"""Addresses of datasets, models and runs."""

from django.urls import include, path

from webapp.runs import views_datasets, views_deletion, views_home, views_models

urlpatterns = [
    path("", views_home.home, name="home"),
    path("home/live/", views_home.home_live, name="home_live"),
    path("runs/", include("webapp.runs.urls_runs")),
    path("datasets/", views_datasets.datasets, name="datasets"),
    path("datasets/new/", views_datasets.new_dataset, name="new_dataset"),
    path("datasets/<int:pk>/", views_datasets.dataset, name="dataset"),
    path("datasets/<int:pk>/status/", views_datasets.dataset_status, name="dataset_status"),
    path("datasets/<int:pk>/rows.jsonl", views_datasets.dataset_rows_file, name="dataset_rows_file"),
    path("datasets/<int:pk>/rejected.<str:ending>", views_datasets.dataset_rejects_file, name="dataset_rejects_file"),
    path("datasets/<int:pk>/lengths/", views_datasets.dataset_lengths, name="dataset_lengths"),
    path("datasets/<int:pk>/lengths/measure/", views_datasets.measure_lengths, name="measure_lengths"),
    path("datasets/<int:pk>/derive/", views_datasets.derive_dataset, name="derive_dataset"),
    path("datasets/<int:pk>/share/", views_datasets.share_dataset, name="share_dataset"),
    path("datasets/<int:pk>/retry/", views_datasets.retry_dataset, name="retry_dataset"),
    path("datasets/<int:pk>/stop/", views_datasets.stop_dataset_import, name="stop_dataset_import"),
    path("datasets/<int:pk>/delete/", views_deletion.delete_dataset, name="delete_dataset"),
    path("models/", views_models.models, name="models"),
    path("models/new/", views_models.new_model, name="new_model"),
    path("models/<int:pk>/", views_models.model, name="model"),
    path("models/<int:pk>/status/", views_models.model_status, name="model_status"),
    path("models/<int:pk>/share/", views_models.share_model, name="share_model"),
    path("models/<int:pk>/retry/", views_models.retry_model, name="retry_model"),
    path("models/<int:pk>/stop/", views_models.stop_model_import, name="stop_model_import"),
    path("models/<int:pk>/delete/", views_deletion.delete_model, name="delete_model"),
]
