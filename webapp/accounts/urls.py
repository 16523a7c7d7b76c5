"""Addresses of sign-in and accounts."""

urlpatterns: list[object] = []
