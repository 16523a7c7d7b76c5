from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tests.webapp.graphs import DIAMOND, claim, finish_everything, finish_stage, run_of
from tests.webapp.work import imported, json_lines, keep, pairs, work_off
from webapp.accounts.models import User
from webapp.runs import jobs, services
from webapp.runs.failures import Failed
from webapp.runs.models import RegisteredModel, Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(client: Client, researcher: User) -> Client:
    """A browser in which the researcher has signed in."""
    client.force_login(researcher)
    return client


def body(page: Client, path: str = "/home/live/") -> str:
    return page.get(path).content.decode()


def test_a_newcomer_is_shown_the_first_steps_in_order(page: Client, researcher: User) -> None:
    assert "First steps" in body(page, "/")
    assert "after steps 1 and 2" in body(page)
    imported(researcher, "posts", json_lines(pairs(2)))
    RegisteredModel.objects.create(owner=researcher, name="tiny", digest="a" * 64)
    assert "after steps 1 and 2" not in body(page)
    finish_everything(run_of(DIAMOND, researcher))
    assert "First steps" not in body(page)


def test_running_work_is_shown_with_its_progress_and_asked_for_often(page: Client, researcher: User) -> None:
    run = run_of(DIAMOND, researcher)
    finish_stage(run, "sft")
    shown = body(page)
    assert "data-running" in shown
    assert "1 of 4 stages" in shown
    Run.objects.update(status="stopped")
    assert "data-running" not in body(page)


def test_work_that_no_worker_takes_says_how_to_start_one(page: Client, researcher: User) -> None:
    run_of(DIAMOND, researcher)
    assert "celery -A workers.app worker -Q gpu" in body(page)
    jobs.note_worker(name="one", queue="gpu,cpu", slots=1, device="")
    assert "celery -A workers.app worker" not in body(page)
    assert "alive" in body(page)


def test_what_failed_needs_its_owner_and_says_why(page: Client, researcher: User, admin: User) -> None:
    dataset = services.request_dataset_import(
        owner=researcher, name="mine", kind="sft", task="dialogue", config={}, upload_digest=keep(b"[]", "rows.json")
    )
    work_off(dataset.stage)
    failed = run_of(DIAMOND, researcher)
    claimed = claim(failed, "sft")
    assert claimed is not None
    jobs.fail_shard(claimed, Failed("user", "the targets are too long"))
    shown = body(page)
    for expected in ("Needs you", "the source holds no rows", "the targets are too long", "See why, and resume"):
        assert expected in shown
    page.force_login(admin)
    assert "Needs you" not in body(page)


def test_what_failed_long_ago_is_no_longer_told(page: Client, researcher: User) -> None:
    run = run_of(DIAMOND, researcher)
    Run.objects.update(status="failed", message="long ago", created=timezone.now() - timedelta(days=8))
    assert run.name
    assert "Needs you" not in body(page)


def test_home_is_polled_with_an_etag(page: Client) -> None:
    first = page.get("/home/live/")
    assert page.get("/home/live/", headers={"If-None-Match": first["ETag"]}).status_code == 304


def test_home_costs_few_queries_however_much_is_going_on(
    page: Client, researcher: User, django_assert_max_num_queries: Any
) -> None:
    for seed in range(6):
        finish_everything(run_of(DIAMOND, researcher, seed=seed))
    with django_assert_max_num_queries(20):
        page.get("/home/live/")
