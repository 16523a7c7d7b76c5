"""Addresses of datasets, models and runs."""

urlpatterns: list[object] = []
