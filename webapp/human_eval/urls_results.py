"""Addresses of the results pages."""

from django.urls import URLPattern, URLResolver, path

from webapp.human_eval import views_results, views_results_exports, views_results_items, views_results_raters

urlpatterns: list[URLPattern | URLResolver] = [
    path("<int:pk>/results/", views_results.results, name="campaign_results"),
    path("<int:pk>/results/live/", views_results.results_live, name="campaign_results_live"),
    path("<int:pk>/results.json", views_results.results_json, name="campaign_results_json"),
    path("<int:pk>/results.csv", views_results_exports.results_csv, name="campaign_results_csv"),
    path("<int:pk>/answers.csv", views_results_exports.answers_csv, name="campaign_answers_csv"),
    path("<int:pk>/answers.jsonl", views_results_exports.answers_jsonl, name="campaign_answers_jsonl"),
    path("<int:pk>/items.jsonl", views_results_exports.items_jsonl, name="campaign_items_jsonl"),
    path("<int:pk>/preferences/", views_results_exports.preferences, name="campaign_preferences"),
    path("<int:pk>/preferences/live/", views_results_exports.preferences_live, name="campaign_preferences_live"),
    path("<int:pk>/items/", views_results_items.items, name="campaign_items"),
    path("<int:pk>/items/<int:number>/", views_results_items.item, name="campaign_item"),
    path("<int:pk>/flags/<int:flag>/settle/", views_results_items.settle_flag, name="settle_flag"),
    path("<int:pk>/raters/", views_results_raters.raters, name="campaign_raters"),
    path("<int:pk>/raters/<str:pseudonym>/", views_results_raters.rater, name="campaign_rater"),
    path("<int:pk>/raters/<str:pseudonym>/exclude/", views_results_raters.exclude_rater, name="exclude_rater"),
    path("<int:pk>/raters/<str:pseudonym>/lift/", views_results_raters.lift_exclusion, name="lift_exclusion"),
]
