"""What tests of human evaluation find: a campaign and raters in it. Tests of researchers' pages have a `page` of their own."""

import pytest
from django.test import Client

from tests.webapp.human_eval.made_campaigns import made_campaign, made_rater
from webapp.accounts.models import User
from webapp.human_eval.models import Campaign, Rater


@pytest.fixture
def campaign(researcher: User) -> Campaign:
    return made_campaign(researcher)


@pytest.fixture
def first(campaign: Campaign) -> Rater:
    return made_rater(campaign)


@pytest.fixture
def second(campaign: Campaign) -> Rater:
    return made_rater(campaign)


@pytest.fixture
def someone(campaign: Campaign, rater: User) -> Rater:
    return made_rater(campaign, user=rater)


@pytest.fixture
def page(client: Client, someone: Rater, rater: User) -> Client:
    client.force_login(rater)
    return client
