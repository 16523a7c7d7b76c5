"""Addresses of sign-in and accounts."""

from django.urls import path

from webapp.accounts import views, views_audit

urlpatterns = [
    path("sign-in/", views.sign_in, name="login"),
    path("sign-out/", views.sign_out, name="logout"),
    path("first-sign-in/<str:token>/", views.first_sign_in, name="first_sign_in"),
    path("account/", views.account, name="account"),
    path("people/", views.people, name="people"),
    path("people/new/", views.new_person, name="new_person"),
    path("people/<int:pk>/", views.person, name="person"),
    path("people/<int:pk>/link/", views.new_link, name="new_link"),
    path("audit/", views_audit.audit_log, name="audit_log"),
    path("audit/audit.csv", views_audit.audit_csv, name="audit_csv"),
]
