"""The page of tasks whose answer is known."""

import pytest
from django.test import Client

from tests.webapp.human_eval.made_campaigns import made_campaign
from tests.webapp.human_eval.rating import body
from tests.webapp.human_eval.typed import known
from tests.webapp.made_runs import imported, signed_in
from webapp.accounts.models import User
from webapp.human_eval.services import open_campaign
from webapp.runs.models import Dataset

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("made_store")]


@pytest.fixture
def page(researcher: User) -> Client:
    imported(researcher)
    return signed_in(researcher)


def test_known_tasks_are_added_by_hand_and_removed(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2, status="draft")
    address = f"/campaigns/{campaign.pk}/known/"
    page.post(address, known())
    page.post(address, known(kind="qualification", best="same"))
    check, qualification = campaign.items.exclude(kind="main").order_by("index")
    assert (check.expected_choice, check.expected_same, check.responses.count()) == (1, False, 3)
    assert (qualification.expected_choice, qualification.expected_same) == (None, True)
    assert check.responses.filter(system=None).count() == 3
    assert "It is four." in body(page.get(address))
    assert "required" in body(page.post(address, known(response_3="")))

    page.post(f"{address}{check.index}/remove/")

    assert list(campaign.items.exclude(kind="main")) == [qualification]
    open_campaign(campaign, by=researcher)
    assert set(campaign.slots.values_list("item__kind", flat=True)) == {"main"}


def test_a_preference_pair_is_offered_as_a_known_task(page: Client, researcher: User) -> None:
    campaign = made_campaign(researcher, items=2)
    pairs = Dataset.objects.get(name="preferences")
    first = body(page.get(f"/campaigns/{campaign.pk}/known/?dataset={pairs.pk}&number=0"))
    assert "The author asks whom to turn to" in first
    assert first != body(page.get(f"/campaigns/{campaign.pk}/known/?dataset={pairs.pk}&number=1"))
    for odd in ("dataset=0", "dataset=x", f"dataset={pairs.pk}&number=x", f"dataset={pairs.pk}&number=99999"):
        assert page.get(f"/campaigns/{campaign.pk}/known/?{odd}").status_code == 200
