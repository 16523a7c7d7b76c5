"""Studies in the product: cells become runs that share stages; pages, exports, pausing, extending, permissions."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from rso_core.studies import cells, parse_study
from rso_core.study_presets import mini_base
from tests.webapp.made_runs import config_of, finish_run, launched, signed_in
from webapp.accounts.models import AuditEntry, User
from webapp.runs.models import Dataset, RegisteredModel, Run, Stage, Status
from webapp.studies import services
from webapp.studies.launching import launch_waiting
from webapp.studies.models import Study
from webapp.studies.study_page import _made

pytestmark = pytest.mark.django_db


def posted(run: Run | None = None, /, **values: Any) -> dict[str, Any]:
    form = {"preset": "table_1", "name": "", "seeds": "0-1", "grid": "", "action": "start"}
    return form | {"base": f"run-{run.pk}" if run else "mini_tldr", **values}


def started(browser: Client, owner: User, **values: Any) -> Study:
    """Return a study that was started from the page on the recipe of a run."""
    answer = browser.post("/studies/new/", posted(launched(owner), **values))
    assert answer.status_code == 302, answer.content.decode()
    return Study.objects.get(pk=int(answer.url.split("/")[-2]))


def launched_all(study: Study) -> list[Run]:
    while launch_waiting():
        pass
    return list(Run.objects.filter(study_cells__study=study).order_by("study_cells__order"))


@pytest.fixture
def finished(browser: Client, researcher: User) -> Study:
    """The three sources of pairs with one loss and two seeds, all done."""
    study = started(browser, researcher, preset="table_3", seeds="0-1")
    for run in launched_all(study):
        finish_run(run)
    return study


def count(kind: str) -> int:
    return Stage.objects.filter(kind=kind).count()


def test_table_1_is_started_from_the_page_and_trains_one_reward_model_and_samples_one_pool_for_each_seed(
    browser: Client, researcher: User
) -> None:
    study = started(browser, researcher)

    runs = launched_all(study)
    assert len(runs) == 14 * 2
    assert [count(kind) for kind in ("sft", "reward_training", "sampling", "scoring")] == [2, 2, 2, 2]
    assert count("policy_fitting") == 28
    assert count("preference_pairs") == (3 + 1) * 2
    assert {run.owner for run in runs} == {researcher}
    assert runs[0].name == "Table 1 · sigmoid_norm direct · seed 0"


def test_a_form_sent_twice_starts_one_study(browser: Client, researcher: User) -> None:
    form = posted(launched(researcher), launch_token="1cbd5b74-6b05-4d5a-8ad8-6f1d0a2d3f11")

    assert len({browser.post("/studies/new/", form).url for _ in range(2)}) == 1
    assert Study.objects.count() == 1


def test_cells_wait_for_the_built_in_data_that_the_study_asks_for(browser: Client) -> None:
    answer = browser.post("/studies/new/", posted(seeds="10", preset="figure_3a"))

    study = Study.objects.get()
    assert answer.url == study.get_absolute_url()
    assert set(Dataset.objects.filter(name__startswith="mini").values_list("name", "kind")) == {
        ("mini_tldr:size=6000,seed=10", "preference"),
        ("mini_tldr:size=4000,seed=10", "sft"),
    }
    assert RegisteredModel.objects.filter(name="mini_tldr:family=causal,seed=10").exists()
    assert launch_waiting() == 0
    assert "waits for its data" in browser.get(study.get_absolute_url()).content.decode()
    Stage.objects.filter(kind="import_dataset").update(status=Status.FAILED, message="the disk is full")
    assert launch_waiting() == 0
    assert "failed: the disk is full" in browser.get(study.get_absolute_url()).content.decode()


def test_judges_and_reward_models_that_say_nothing_are_named(
    browser: Client, researcher: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"prompts": 96, "unjudged": 95, "samples": 384, "unparseable": 370}
    judge = {"accuracy": None, "better_than_chance": False, "prompts": 24}
    monkeypatch.setattr("webapp.studies.study_page._made", _made.__wrapped__)  # what is made here is kept for nobody
    monkeypatch.setattr("rso_core.study_bundle.judged_counts", lambda _: asked)
    monkeypatch.setattr("rso_core.study_bundle.judge_of", lambda _: judge)
    accuracy = {"value": 0.504, "low": 0.414, "high": 0.592, "n": 113}
    known = [
        {"metric": metric, "seeds": [0], "accuracy": accuracy | low}
        for metric, low in (("proxy", {"low": 0.501}), ("gold", {}))
    ]
    monkeypatch.setattr("rso_core.study_bundle.reward_models", lambda _: known)

    page = browser.get(started(browser, researcher, preset="table_3", seeds="0").get_absolute_url())

    assert page.context["page"].metric_titles == ["AutoSxS %"]
    words = " ".join(page.content.decode().split())
    assert "The gold reward model of seed 0 is not better than chance" in words
    assert "The proxy reward model" not in words
    assert "could judge none of 24 held-out human pairs" in words
    assert "AutoSxS left 95 of 96 comparisons unjudged: 370 of 384 answers of the judge hold no choice." in words


def body(answer: Any) -> str:
    return b"".join(answer).decode()


def test_a_finished_study_shows_its_table_compares_its_arms_and_can_be_taken_along(
    browser: Client, finished: Study
) -> None:
    """One finished study for everything that is only read: making one takes seconds."""
    shows_the_table_with_what_is_clear(browser, finished)
    compares_every_arm_with_one_that_is_chosen(browser, finished)
    exports_the_table_and_a_bundle_that_runs_again(browser, finished)
    page = browser.get("/studies/")
    assert page.context["rows"] == [(finished, Status.DONE, 6)]
    assert "6 / 6" in page.content.decode()
    assert browser.get("/studies/", {"q": "nothing like it"}).context["rows"] == []


def shows_the_table_with_what_is_clear(browser: Client, finished: Study) -> None:
    page = browser.get(finished.get_absolute_url())

    assert "6 of 6" in page.content.decode()
    rows = {row.arm: row for row in page.context["page"].rows}
    assert list(rows) == ["SFT", "direct", "sft_sample_rank", "rso_sample_rank"]
    rso = rows["rso_sample_rank"].figures[0]
    assert rso["rate"]["n"] == 120
    assert set(rso["above"]) == {"direct", "sft_sample_rank"}
    assert "seed 0:" in rso["seeds"]
    assert rows["rso_sample_rank"].printed == [98.29, 86.01]
    assert rows["rso_sample_rank"].cost["formula"] == [16, 20]
    assert rows["direct"].cost["decodes"] == 0
    shared = {item["kind"]: (item["done"], item["uses"]) for item in page.context["page"].sharing}
    assert shared["reward training"] == (2, 6)
    assert shared["policy fitting"] == (6, 6)
    assert page.context["chart"]["data"][0]["x"] == ["SFT", "direct", "sft_sample_rank", "rso_sample_rank"]


def compares_every_arm_with_one_that_is_chosen(browser: Client, finished: Study) -> None:
    page = browser.get(finished.get_absolute_url(), {"against": "direct"})

    rows = {row.arm: row.figures[0]["against"] for row in page.context["page"].rows}
    assert rows["direct"] is None
    assert rows["rso_sample_rank"]["verdict"] == "clear"
    assert rows["rso_sample_rank"]["difference"]["value"] > 0.1
    assert rows["SFT"]["verdict"] == "exploratory"
    assert browser.get(finished.get_absolute_url(), {"against": "nobody"}).context["page"].against == ""


def exports_the_table_and_a_bundle_that_runs_again(browser: Client, finished: Study) -> None:
    address = finished.get_absolute_url()

    table = body(browser.get(f"{address}study.csv")).splitlines()
    assert table[0].startswith("\ufeffarm,pairs.pair_source,proxy_value") or table[0].startswith(
        "\ufeffarm,proxy_value"
    )
    assert len(table) == 5
    latex = body(browser.get(f"{address}study.tex"))
    assert r"rso\_sample\_rank" in latex
    assert "$^{*}$" in latex
    text = body(browser.get(f"{address}bundle.json"))
    assert cells(parse_study(text)) == cells(finished.plan)
    assert len(json.loads(text)["comparisons"]) == 6
    assert {seed for model in json.loads(text)["reward_models"] for seed in model["seeds"]} == {0, 1}
    assert AuditEntry.objects.filter(action="downloaded", kind="study").count() == 3


def test_pausing_stops_the_runs_and_nothing_is_launched_until_it_is_resumed(browser: Client, researcher: User) -> None:
    study = started(browser, researcher, preset="table_3", seeds="0")
    launched_all(study)

    assert browser.post(f"{study.get_absolute_url()}pause/").status_code == 302
    assert {cell.run.status for cell in study.cells.select_related("run") if cell.run} == {Status.STOPPED}
    assert browser.get(study.get_absolute_url()).context["page"].status == Status.STOPPED
    study.cells.update(run=None)
    assert launch_waiting() == 0

    browser.post(f"{study.get_absolute_url()}resume/")
    assert launch_waiting() == 3


def test_a_resumed_study_goes_on_with_the_runs_it_has(browser: Client, researcher: User) -> None:
    study = started(browser, researcher, preset="table_3", seeds="0")
    runs = launched_all(study)
    browser.post(f"{study.get_absolute_url()}pause/")
    browser.post(f"{study.get_absolute_url()}resume/")

    assert {Run.objects.get(pk=run.pk).status for run in runs} <= {Status.WAITING, Status.READY}
    assert launch_waiting() == 0


@pytest.mark.django_db(transaction=True)
def test_extensions_from_several_tabs_at_once_all_count(browser: Client, researcher: User) -> None:
    study = started(browser, researcher, preset="table_3", seeds="0")

    tabs = {seed: Study.objects.get(pk=study.pk) for seed in range(1, 5)}

    def extend(seed: int) -> None:
        try:
            services.extend_study(study=tabs[seed], by=researcher, seeds=[seed], values={})
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(extend, tabs))
    study.refresh_from_db()
    assert sorted(study.plan.seeds) == [0, 1, 2, 3, 4]
    assert study.cells.count() == 15


def test_extending_adds_cells_and_keeps_the_others(browser: Client, researcher: User) -> None:
    study = started(browser, researcher, preset="table_3", seeds="0")
    launched_all(study)
    address = study.get_absolute_url()

    browser.post(f"{address}extend/", {"seeds": "0-1", "grid": ""})
    assert study.cells.count() == 6
    assert study.cells.filter(run=None).count() == 3
    assert launch_waiting() == 3
    answer = browser.post(f"{address}extend/", {"seeds": "x", "grid": ""}, follow=True)
    assert "seeds are whole numbers" in answer.content.decode()
    answer = browser.post(f"{address}extend/", {"seeds": "", "grid": "fitting.gamma: [1]"}, follow=True)
    assert "make a new study" in answer.content.decode()


def test_removing_keeps_the_runs_and_waits_for_a_pause(browser: Client, researcher: User) -> None:
    study = started(browser, researcher, preset="table_3", seeds="0")
    launched_all(study)

    assert "pause the study first" in browser.post(f"{study.get_absolute_url()}remove/", follow=True).content.decode()
    browser.post(f"{study.get_absolute_url()}pause/")
    assert browser.post(f"{study.get_absolute_url()}remove/").url == "/studies/"
    assert not Study.objects.exists()
    assert Run.objects.count() == 3 + 1


def test_sharing_a_study_shares_its_runs(browser: Client, researcher: User) -> None:
    study = started(browser, researcher, preset="table_3", seeds="0")
    launched_all(study)
    other = signed_in(User.objects.create_user("other", password="correct horse battery", role="researcher"))

    assert other.get(study.get_absolute_url()).status_code == 404
    browser.post(f"{study.get_absolute_url()}share/", {"shared": "1"})
    assert other.get(study.get_absolute_url()).status_code == 200
    assert Run.objects.filter(study_cells__study=study, shared=True).count() == 3
    assert other.post(f"{study.get_absolute_url()}pause/").status_code == 403


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seeds": "a"}, "seeds are whole numbers and ranges like 10-14"),
        ({"grid": "fitting.gama: [1]"}, "did you mean fitting.gamma"),
        ({"grid": "[1"}, "the grid is not valid YAML"),
        ({"grid": "words"}, "a grid is lines like fitting.gamma"),
        ({"base": "recipe", "recipe": "name: x"}, "task: Field required"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_started(browser: Client, values: dict[str, str], words: str) -> None:
    answer = browser.post("/studies/new/", posted(**{"preset": "", **values}))

    assert words in answer.content.decode()
    assert not Study.objects.exists()


def test_data_that_is_not_there_is_named(browser: Client) -> None:
    recipe = config_of().model_dump_json().replace('"targets"', '"nothing"')
    answer = browser.post("/studies/new/", posted(base="recipe", recipe=recipe))

    assert "no dataset of prompts with targets is called" in answer.content.decode()
    assert not Study.objects.exists()


def test_the_cells_are_shown_before_anything_is_started(browser: Client) -> None:
    page = browser.post("/studies/new/", posted(preset="", grid="fitting.gamma: [0.1, 0.2]", action="preview"))

    assert "2 arms × 2 seeds" in page.content.decode()
    assert not Study.objects.exists()


def test_the_number_of_queries_does_not_grow_with_the_cells(
    browser: Client, researcher: User, django_assert_max_num_queries: Any
) -> None:
    study = started(browser, researcher, preset="table_3")
    launched_all(study)

    with django_assert_max_num_queries(14):
        browser.get(study.get_absolute_url())


def test_a_grid_with_infinity_becomes_json(browser: Client) -> None:
    browser.post("/studies/new/", posted(preset="", grid="rejection_sampling.beta: [0, .inf]", seeds="0"))

    study = Study.objects.get()
    assert [cell.arm for cell in study.cells.all()] == ["0", "inf"]
    assert study.plan.base == mini_base()
