"""What β would do, before it is chosen: from the rewards of a finished scoring stage."""

import pytest
from django.test import Client

from tests.webapp.made_runs import config_of, finish_run, launched, signed_in
from webapp.accounts.models import User
from webapp.runs.forms import form_data
from webapp.runs.models import Stage

pytestmark = pytest.mark.django_db


def test_the_chart_stands_beside_the_pairs_and_in_the_plan_of_a_run_with_another_beta(
    browser: Client, researcher: User
) -> None:
    run = launched(researcher)
    assert "What β would do" not in browser.get(f"/runs/{run.pk}/pairs/").content.decode()
    finish_run(run, until="checkpoint_selection")
    stage = Stage.objects.get(kind="scoring")
    address = f"/runs/beta/{stage.pk}/?num_samples=8"
    assert address in browser.get(f"/runs/{run.pk}/pairs/").content.decode()
    other = config_of("other β").model_copy(update={"rejection_sampling": run_selection(2.0)})
    plan = browser.post("/runs/new/", form_data(other) | {"action": "preview"})
    assert address in plan.content.decode()

    figure = browser.get(address).json()
    accepted = figure["data"][0]
    assert accepted["name"] == "expected acceptance"
    assert accepted["y"] == sorted(accepted["y"])
    assert 0 < accepted["y"][0] < accepted["y"][-1] < 1
    assert len(figure["table"]["rows"][0]) == len(figure["table"]["heads"]) == 7

    assert (
        f"/runs/gamma/{stage.pk}/?num_samples=8&amp;beta=0.5" in browser.get(f"/runs/{run.pk}/pairs/").content.decode()
    )
    assert f"/runs/gamma/{stage.pk}/?num_samples=8&amp;beta=2.0" in plan.content.decode()
    gamma = f"/runs/gamma/{stage.pk}/?num_samples=8&beta=2.0"
    figure = browser.get(gamma).json()
    rows = {row[0]: row for row in figure["table"]["rows"]}
    assert len(figure["table"]["heads"]) == len(rows[2.0]) == 5
    assert rows[2.0][3] == pytest.approx(rows[2.0][4])  # γ = β: the loss believes what the rewards say
    assert rows[0.005][2] <= rows[5.0][2]

    assert browser.get(f"/runs/beta/{stage.pk}/?num_samples=x").status_code == 404
    for wrong in ("0", "inf", "nan", "x"):
        assert browser.get(f"/runs/gamma/{stage.pk}/?num_samples=8&beta={wrong}").status_code == 404
    other_person = signed_in(User.objects.create_user("other", password="correct horse battery", role="researcher"))
    assert other_person.get(address).status_code == other_person.get(gamma).status_code == 404


def test_without_a_finite_target_gamma_has_no_chart(browser: Client, researcher: User) -> None:
    finish_run(launched(researcher), until="checkpoint_selection")
    plans = [
        browser.post(
            "/runs/new/",
            form_data(config_of("other β").model_copy(update={"rejection_sampling": run_selection(beta)}))
            | {"action": "preview"},
        ).content.decode()
        for beta in (0.0, float("inf"))
    ]
    assert all("What β would do" in plan and "What γ would mean" not in plan for plan in plans)


def run_selection(beta: float) -> object:
    return config_of().rejection_sampling.model_copy(update={"beta": beta})
