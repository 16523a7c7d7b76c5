"""Any runs beside each other."""

import pytest
from django.test import Client

from tests.webapp.made_runs import config_of, finish_run, launched, signed_in
from webapp.accounts.models import User
from webapp.runs.models import Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def runs(browser: Client, researcher: User) -> list[Run]:
    """RSO and DPO, done, and a run that has just begun."""
    return [
        finish_run(launched(researcher, config_of("RSO run"))),
        finish_run(launched(researcher, config_of("DPO run", pair_source="direct"))),
        launched(researcher, config_of("young run", loss="hinge", seed=3)),
    ]


def address(runs: list[Run]) -> str:
    return "/runs/compare/?" + "&".join(f"run={run.pk}" for run in runs)


def test_runs_stand_beside_each_other_with_what_differs(browser: Client, runs: list[Run]) -> None:
    page = browser.get(address(runs[:2])).context

    assert [item.run.name for item in page["items"]] == ["RSO run", "DPO run"]
    assert [(row.path, row.values) for row in page["differences"]] == [
        ("pairs.pair_source", ["rso_sample_rank", "direct"])
    ]
    loss = page["curves"][0].figure["data"]
    assert [trace["name"] for trace in loss] == ["RSO run", "DPO run"]
    assert len(loss[0]["x"]) == len(loss[0]["y"]) > 20
    assert len(page["sides"]) == 10
    assert page["pages"] == 6
    assert [item.run.name for item, *_ in page["sides"][0].answers] == ["RSO run", "DPO run"]


def test_other_pages_hold_other_prompts(browser: Client, runs: list[Run]) -> None:
    first, last = (browser.get(address(runs[:2]) + f"&page={number}").context for number in (1, 99))

    assert last["number"] == 6
    assert not {side.prompt for side in first["sides"]} & {side.prompt for side in last["sides"]}


def test_what_a_young_run_does_not_have_is_left_out(browser: Client, runs: list[Run]) -> None:
    page = browser.get(address(runs))

    assert page.status_code == 200
    assert {row.path for row in page.context["differences"]} == {"pairs.pair_source", "fitting.loss", "seed"}
    assert [len(side.answers) for side in page.context["sides"]] == [2] * 10


def test_without_runs_one_can_choose_and_nothing_private_is_shown(browser: Client, runs: list[Run]) -> None:
    assert "young run" in browser.get("/runs/compare/?run=x&run=99999").content.decode()
    other = signed_in(User.objects.create_user("other", password="correct horse battery", role="researcher"))
    page = other.get(address(runs))
    assert page.context["items"] == []
    assert "RSO run" not in page.content.decode()


def test_at_most_eight_runs_are_compared(browser: Client, researcher: User) -> None:
    many = [launched(researcher, config_of(f"run {number}", seed=number)) for number in range(9)]

    page = browser.get(address(many))
    assert len(page.context["items"]) == 8
    assert "1 more run than fit" in page.content.decode()
