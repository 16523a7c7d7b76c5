"""Addresses of studies."""

from django.urls import path

from webapp.studies import views, views_exports

urlpatterns = [
    path("", views.studies, name="studies"),
    path("new/", views.new_study, name="new_study"),
    path("<int:pk>/", views.study, name="study"),
    path("<int:pk>/live/", views.study_live, name="study_live"),
    path("<int:pk>/pause/", views.pause_study, name="pause_study"),
    path("<int:pk>/resume/", views.resume_study, name="resume_study"),
    path("<int:pk>/extend/", views.extend_study, name="extend_study"),
    path("<int:pk>/share/", views.share_study, name="share_study"),
    path("<int:pk>/remove/", views.remove_study, name="remove_study"),
    path("<int:pk>/study.csv", views_exports.study_csv, name="study_csv"),
    path("<int:pk>/study.tex", views_exports.study_latex, name="study_latex"),
    path("<int:pk>/bundle.json", views_exports.study_bundle, name="study_bundle"),
]
