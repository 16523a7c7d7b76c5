"""No page asks the database more often because there is more in it."""

from dataclasses import asdict, replace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from benchmarks.every_page import Page, admin_pages, every_page, session_of, things_of
from benchmarks.rating_campaign import invitations
from benchmarks.seed_database import Seeded, Sizes, add_campaign, fill_study, grow, seed
from webapp.accounts.models import User
from webapp.human_eval.models import Answer, Campaign
from webapp.studies.models import Study
from webapp.studies.services import extend_study

pytestmark = pytest.mark.django_db

FEW = Sizes(
    runs=6, pairs=400, largest_run=100, prompts=40, dataset_rows=30, datasets=4, models=2, log_lines=2, people=3, audit=5,
    sessions=2, campaigns=3, items=4, seeds=1,
)  # fmt: skip
ONLY_FORMS = 405
MANY = replace(FEW, runs=24, pairs=2500, datasets=16, models=14, log_lines=9, people=14, audit=40)
RUNS = ("dpo", "live", "failed")  # what their pages ask for is not what an RSO run's do


_OF_RUNS = frozenset({"run", "run_details", "run_pairs"})


def add_more(few: Seeded) -> None:
    """Let there be several times as much of everything that lists and pages are made of."""
    grow(MANY, few.runs)
    owner, campaign = User.objects.get(pk=few.owner), Campaign.objects.get(pk=few.campaign)
    for _ in range(5):
        add_campaign(owner, items=9)
    study = Study.objects.get(pk=few.study)
    extend_study(study=study, by=owner, seeds=[7], values={})
    fill_study(study)
    invitations(campaign, owner, 7)
    flag(campaign, 9)


def flag(campaign: Campaign, count: int) -> None:
    """Let so many answers have been changed, and their items be flagged."""
    for answer in Answer.objects.filter(campaign=campaign).order_by("pk").select_related("rater")[:count]:
        answer.versions.create(values={"choice": 1})
        answer.item.flags.get_or_create(rater=answer.rater, defaults={"reason": "other"})


def pages_of(few: Seeded) -> list[Page]:
    """Return the pages of the product and its admin; of the other runs those that show their state."""
    others = [page for run in RUNS for page in every_page(things_of(asdict(few), run)) if page.name in _OF_RUNS]
    pages = {page.path: page for page in (*every_page(things_of(asdict(few), "rso")), *others, *admin_pages())}
    return list(pages.values())


def clients(few: Seeded) -> dict[bool, Client]:
    """Return a browser of an admin, and one of a rater."""
    sessions = {False: session_of(user=User.objects.get(pk=few.owner)), True: session_of(rater=few.rater)}
    found = {for_rater: Client() for for_rater in sessions}
    for for_rater, session in sessions.items():
        found[for_rater].cookies["sessionid"] = session
    return found


def opened(client: Client, page: Page) -> tuple[int, list[str]]:
    """Return the status and the queries of a page, at the second opening: the first may fill a cache."""
    response, queries = counted(client, page)
    if response.status_code == ONLY_FORMS:
        return ONLY_FORMS, []
    response, queries = counted(client, page)
    return response.status_code, queries


def counted(client: Client, page: Page) -> tuple[Any, list[str]]:
    with CaptureQueriesContext(connection) as queries:
        response: Any = client.get(page.path)
        if response.streaming:
            b"".join(response.streaming_content)
    return response, [query["sql"] for query in queries]


def test_no_page_asks_more_often_where_there_is_more(made_store: None) -> None:
    few = seed(FEW)
    campaign = Campaign.objects.get(pk=few.campaign)
    invitations(campaign, User.objects.get(pk=few.owner), 1)
    flag(campaign, 1)
    browsers, pages = clients(few), pages_of(few)
    before = {page.path: opened(browsers[page.for_rater], page) for page in pages}
    add_more(few)
    pages = [page for page in pages if before[page.path][0] != ONLY_FORMS]
    after = {page.path: opened(browsers[page.for_rater], page) for page in pages}

    statuses = {path: status for path, (status, _) in before.items()}
    assert {path: status for path, status in statuses.items() if status not in {200, 302, 404, ONLY_FORMS}} == {}
    assert sum(status == 200 for status in statuses.values()) > 100  # they are looked at, not turned away
    assert {path: status for path, (status, _) in after.items() if status != statuses[path]} == {}
    grown = {
        path: (len(before[path][1]), len(queries), sorted(set(queries) - set(before[path][1]))[:3])
        for path, (_, queries) in after.items()
        if len(queries) > len(before[path][1])
    }
    assert grown == {}
