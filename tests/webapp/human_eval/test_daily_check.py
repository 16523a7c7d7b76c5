"""Campaigns are looked at once a day, and admins are told what does not fit."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client

from tests.webapp.human_eval.made_campaigns import answer, made_campaign, made_rater
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.daily_check import EVERY, check_when_due, last_check
from webapp.human_eval.models import Answer
from workers import tasks
from workers.app import app

pytestmark = pytest.mark.django_db


def a_day_passes() -> None:
    with connection.cursor() as cursor:  # entries cannot be changed: the database says so
        cursor.execute("ALTER TABLE accounts_auditentry DISABLE TRIGGER USER")
        AuditEntry.objects.update(at=AuditEntry.objects.latest("pk").at - EVERY - timedelta(minutes=1))
        cursor.execute("ALTER TABLE accounts_auditentry ENABLE TRIGGER USER")


def test_campaigns_are_checked_once_a_day_by_a_worker(researcher: User) -> None:
    assert last_check() is None
    made_campaign(researcher)
    tasks.check_campaigns()
    assert not check_when_due(), "a beat comes every hour"
    found = last_check()
    assert found is not None
    assert (found.campaigns, found.count, found.findings) == (1, 0, [])
    a_day_passes()
    assert check_when_due()
    assert AuditEntry.objects.filter(kind="all campaigns").count() == 2
    assert any(entry["task"] == "check_campaigns" for entry in app.conf.beat_schedule.values())


def test_admins_are_told_until_it_is_right_again(client: Client, admin: User, researcher: User) -> None:
    client.force_login(admin)
    assert "have not been checked yet" in client.get("/admin/").content.decode()
    campaign = made_campaign(researcher, items=2, replicas=1)
    given = answer(campaign, made_rater(campaign))
    Answer.objects.filter(pk=given.pk).update(standing="surplus")
    check_when_due()

    shown = client.get("/admin/").content.decode()

    assert "Slots and answers of a campaign do not fit" in shown
    assert "are surplus without a reason" in shown
    assert "surplus without a reason" in client.get("/audit/?kind=all+campaigns").content.decode()
    Answer.objects.filter(pk=given.pk).update(standing="counted")
    a_day_passes()
    check_when_due()
    shown = client.get("/admin/").content.decode()
    assert "do not fit" not in shown
    assert "everything fits" in shown
