"""Addresses of the campaigns pages."""

from django.urls import URLPattern, URLResolver, path

from webapp.human_eval import views_campaign_access as access
from webapp.human_eval import views_campaign_contents as contents
from webapp.human_eval import views_campaign_known as known
from webapp.human_eval import views_campaigns as views

urlpatterns: list[URLPattern | URLResolver] = [
    path("", views.campaigns, name="campaigns"),
    path("new/", views.new_campaign, name="new_campaign"),
    path("new/power/", views.campaign_power, name="campaign_power"),
    path("<int:pk>/", views.campaign, name="campaign"),
    path("<int:pk>/live/", views.campaign_live, name="campaign_live"),
    path("<int:pk>/status.json", views.campaign_status, name="campaign_status"),
    path("<int:pk>/move/", views.move_campaign, name="move_campaign"),
    path("<int:pk>/share/", views.share_campaign, name="share_campaign"),
    path("<int:pk>/remove/", views.remove_campaign, name="remove_campaign"),
    path("<int:pk>/settings/", views.campaign_settings, name="campaign_settings"),
    path("<int:pk>/prompts.jsonl", views.campaign_prompts, name="campaign_prompts"),
    path("<int:pk>/contents/", contents.campaign_contents, name="campaign_contents"),
    path("<int:pk>/responses/", contents.campaign_responses, name="campaign_responses"),
    path("<int:pk>/responses/leave-out/", contents.leave_out, name="leave_out"),
    path("<int:pk>/systems/<int:index>/upload/", contents.campaign_upload, name="campaign_upload"),
    path("<int:pk>/systems/<int:index>/retry/", contents.campaign_retry, name="campaign_retry"),
    path("<int:pk>/systems/<int:index>/stop/", contents.campaign_stop, name="campaign_stop"),
    path("<int:pk>/access/", access.campaign_access, name="campaign_access"),
    path("<int:pk>/access/invite/", access.invite, name="invite"),
    path("<int:pk>/access/<int:invitation>/revoke/", access.revoke_invitation, name="revoke_invitation"),
    path("<int:pk>/access/panel/", access.save_panel, name="save_panel"),
    path("<int:pk>/access/panel/renew/", access.renew_panel, name="renew_panel"),
    path("<int:pk>/known/", known.campaign_known, name="campaign_known"),
    path("<int:pk>/known/<int:index>/remove/", known.remove_known, name="remove_known"),
]
