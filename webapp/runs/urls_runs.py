"""Addresses of runs, under runs/."""

from django.urls import path

from webapp.runs import views_compare, views_deletion, views_downloads, views_new_run, views_pairs, views_runs

urlpatterns = [
    path("", views_runs.runs, name="runs"),
    path("runs.csv", views_runs.runs_csv, name="runs_csv"),
    path("compare/", views_compare.compare_runs, name="compare_runs"),
    path("new/", views_new_run.new_run, name="new_run"),
    path("new/profile/<int:pk>/", views_new_run.profile, name="new_run_profile"),
    path("beta/<int:pk>/", views_new_run.beta_help, name="beta_help"),
    path("gamma/<int:pk>/", views_new_run.gamma_help, name="gamma_help"),
    path("<int:pk>/", views_runs.run, name="run"),
    path("<int:pk>/live/", views_runs.run_live, name="run_live"),
    path("<int:pk>/curves/", views_runs.run_curves_live, name="run_curves"),
    path("<int:pk>/status.json", views_runs.run_status, name="run_status"),
    path("<int:pk>/details/", views_runs.run_details, name="run_details"),
    path("<int:pk>/recipe.yaml", views_runs.run_recipe, name="run_recipe"),
    path("<int:pk>/stop/", views_runs.stop_run, name="stop_run"),
    path("<int:pk>/resume/", views_runs.resume_run, name="resume_run"),
    path("<int:pk>/delete/", views_deletion.delete_run, name="delete_run"),
    path("<int:pk>/share/", views_runs.share_run, name="share_run"),
    path("<int:pk>/policy.zip", views_downloads.policy_zip, name="run_policy"),
    path("<int:pk>/pairs.jsonl", views_downloads.pairs_jsonl, name="run_pairs_jsonl"),
    path("<int:pk>/pairs.csv", views_downloads.pairs_csv, name="run_pairs_csv"),
    path("<int:pk>/pairs/", views_pairs.pairs, name="run_pairs"),
    path("<int:pk>/pairs/<str:prompt_id>/", views_pairs.prompt, name="run_prompt"),
]
