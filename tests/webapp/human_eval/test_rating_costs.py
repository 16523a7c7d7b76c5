"""What a page and an answer cost: statements, and rows that the database reads. No clock is read here."""

import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from tests.webapp.human_eval.made_campaigns import answer, made_campaign, made_rater
from tests.webapp.human_eval.rating import body, fill, url_of
from webapp.accounts.models import User
from webapp.human_eval import standing
from webapp.human_eval.assignment import claim
from webapp.human_eval.models import Campaign
from webapp.human_eval.services import invite

pytestmark = pytest.mark.django_db


@pytest.fixture
def guest(client: Client, campaign: Campaign, researcher: User) -> Client:
    """Return the browser of somebody who came by an invitation and has rated once."""
    invitation = f"/rate/invitation/{invite(campaign, by=researcher)}/"
    client.post(invitation)
    fill(client, url_of(campaign))
    return client


def test_a_task_is_shown_and_answered_with_few_statements(
    guest: Client, campaign: Campaign, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    savepoint = 2  # its begin and end: inside a test's transaction they stand for those of a transaction, or for none
    page = savepoint + 5  # session, rater with campaign, claim, standing, item with texts
    sent = savepoint + 6  # session, rater with campaign, lease, said before?, slot, answer
    with django_assert_num_queries(page):
        assert "Task 2" in body(guest.get(url_of(campaign)))
    with django_assert_num_queries(page + sent):
        fill(guest, url_of(campaign))


def read(plan: dict[str, Any]) -> int:
    """Return how many rows a plan read from tables, those that it threw away among them."""
    thrown = sum(value for name, value in plan.items() if name.startswith("Rows Removed"))
    mine = plan["Actual Loops"] * (plan["Actual Rows"] + thrown) if "Relation Name" in plan else 0
    return int(mine + sum(read(part) for part in plan.get("Plans", [])))


def test_standing_reads_few_rows_however_little_is_known_of_a_new_campaign(researcher: User) -> None:
    """With a join to the items it was items × slots while PostgreSQL's statistics were those of other campaigns."""
    made_campaign(researcher, items=80)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE human_eval_slot, human_eval_item, human_eval_answer, human_eval_skip")
    campaign = made_campaign(researcher, items=80)
    raters = [made_rater(campaign) for _ in range(4)]
    for rater in raters:
        answer(campaign, rater)
        claim(campaign, rater)
    values = {"campaign": campaign.pk, "rater": raters[0].pk, "maximum": None, "places": []}
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {standing._STANDING}", values)
        (found,) = cursor.fetchone()
    plan = json.loads(found) if isinstance(found, str) else found
    assert read(plan[0]["Plan"]) < 10 * campaign.slots.count()  # a small table may be read whole, four times
