import csv
import io
import re
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from rso_core.config import RunConfig
from rso_core.protocol import Log, Progress
from tests.webapp.made_runs import config_of, finish_run, launched, signed_in
from webapp.accounts.models import User
from webapp.runs import jobs
from webapp.runs.artifacts import store
from webapp.runs.curves import MOST_POINTS, run_curves, thinned
from webapp.runs.estimates import measured_speeds
from webapp.runs.failures import Failed
from webapp.runs.models import LogLine, MetricPoint, Run, RunStage, Shard, Stage, Status
from webapp.runs.progress import run_progress
from webapp.runs.run_graph import edges_of, run_graph
from webapp.runs.run_results import _read_side_by_sides

pytestmark = pytest.mark.django_db

PAGES = (
    "",
    "live/",
    "curves/",
    "status.json",
    "details/",
    "recipe.yaml",
    "pairs/",
    "pairs.jsonl",
    "pairs.csv",
    "policy.zip",
)
ACTIONS = ("stop/", "resume/", "share/")


def text(response: Any) -> str:
    return str(response.content.decode())


@pytest.fixture
def run(browser: Client, researcher: User) -> Run:
    return launched(researcher)


def stage_of(run: Run, key: str) -> Stage:
    return RunStage.objects.get(run=run, key=key).stage


def claim(run: Run, key: str) -> jobs.Claim:
    claimed = jobs.claim(stage_id=stage_of(run, key).pk, worker="gpu@here")
    assert claimed is not None
    return claimed


def fail(run: Run, key: str, reason: str, message: str) -> None:
    jobs.fail_shard(claim(run, key), Failed(reason, message, traceback="Traceback: line 1"))  # type: ignore[arg-type]
    run.refresh_from_db()


@pytest.mark.parametrize("page", PAGES)
def test_a_run_is_seen_by_its_owner_by_admins_and_when_shared(page: str, run: Run, admin: User, rater: User) -> None:
    finish_run(run)
    other = signed_in(User.objects.create_user("other", role="researcher"))
    address = f"/runs/{run.pk}/{page}"
    assert other.get(address).status_code == 404
    assert signed_in(rater).get(address).status_code == 403
    assert Client().get(address).status_code == 302
    assert signed_in(admin).get(address).status_code == 200
    Run.objects.update(shared=True)
    assert other.get(address).status_code == 200


@pytest.mark.parametrize("action", ACTIONS)
def test_only_owner_and_admins_change_a_run(action: str, run: Run, admin: User, rater: User) -> None:
    Run.objects.update(shared=True)
    other = signed_in(User.objects.create_user("other", role="researcher"))
    address = f"/runs/{run.pk}/{action}"
    assert other.post(address).status_code == 403
    assert signed_in(rater).post(address).status_code == 403
    assert signed_in(admin).get(address).status_code == 405
    assert signed_in(admin).post(address).status_code == 302


def test_a_person_who_may_not_change_a_run_sees_no_button_for_it(run: Run) -> None:
    Run.objects.update(shared=True)
    page = text(signed_in(User.objects.create_user("other", role="researcher")).get(f"/runs/{run.pk}/"))
    assert "/stop/" not in page
    assert f"/runs/new/?clone={run.pk}" in page


def test_the_list_searches_sorts_and_filters(browser: Client, researcher: User) -> None:
    first = launched(researcher, config_of("apple"))
    finish_run(launched(researcher, config_of("pear", seed=1)))
    page = text(browser.get("/runs/"))
    assert page.index("pear") < page.index("apple")  # the newest first
    assert "78.1\u00a0%" in page
    by_name = text(browser.get("/runs/", {"sort": "name"}))
    assert by_name.index("apple") < by_name.index("pear")
    assert "pear" not in text(browser.get("/runs/", {"q": "APPLE"}))
    assert "apple" not in text(browser.get("/runs/", {"state": "done"}))
    assert "No run matches" in text(browser.get("/runs/", {"q": "nothing"}))
    assert first.get_absolute_url() in page


def test_the_list_is_exported_as_it_is_searched(browser: Client, researcher: User) -> None:
    launched(researcher, config_of("apple"))
    finish_run(launched(researcher, config_of("=pear", seed=1)))
    response = browser.get("/runs/runs.csv", {"q": "pear"})
    (row,) = csv.DictReader(io.StringIO(b"".join(response).decode("utf-8-sig")))
    assert (row["run"], row["system"], row["proxy"], row["difference_low"]) == ("'=pear", "RSO", "0.781", "0.224")


def test_an_empty_list_says_what_to_do(researcher: User) -> None:
    assert "No run yet" in text(signed_in(researcher).get("/runs/"))


def test_the_list_takes_as_many_queries_for_many_runs_as_for_one(
    browser: Client, researcher: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for seed in range(3):
        launched(researcher, config_of(f"run {seed}", seed=seed))
    with django_assert_max_num_queries(7):
        browser.get("/runs/")


def test_the_polled_part_takes_a_bounded_number_of_queries(
    browser: Client, run: Run, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    finish_run(run, until="checkpoint_selection")
    with django_assert_max_num_queries(12):
        browser.get(f"/runs/{run.pk}/live/")
    with django_assert_max_num_queries(6):
        browser.get(f"/runs/{run.pk}/curves/")


@pytest.mark.parametrize("page", ["live/", "curves/", "status.json"])
def test_what_has_not_changed_is_answered_with_304(page: str, browser: Client, run: Run) -> None:
    finish_run(run, until="sampling")
    Run.objects.update(created=timezone.now() - timedelta(minutes=5, seconds=20))
    Stage.objects.filter(started=None).update(started=None)
    address = f"/runs/{run.pk}/{page}"
    first = browser.get(address)
    assert browser.get(address, headers={"If-None-Match": first["ETag"]}).status_code == 304
    MetricPoint.objects.create(stage=stage_of(run, "sft"), step=9999, values={"loss": 9.5})
    LogLine.objects.create(stage=stage_of(run, "sft"), message="something new")
    Stage.objects.filter(pk=stage_of(run, "sampling").pk).update(status=Status.RUNNING)
    assert browser.get(address, headers={"If-None-Match": first["ETag"]}).status_code == 200


def test_a_running_stage_shows_what_is_done_the_rate_and_the_time_left(browser: Client, run: Run) -> None:
    claimed = claim(run, "sft")
    jobs.record(claimed, jobs.Report(progress=Progress(done=30, total=120, unit="steps", tokens_per_second=812.0)))
    Shard.objects.filter(pk=claimed.shard_id).update(started=timezone.now() - timedelta(seconds=10))
    page = text(browser.get(f"/runs/{run.pk}/live/"))
    assert "30 / 120 steps" in page
    assert "812 tokens/s" in page
    assert re.search(r"about 3\d\u00a0s left", page)  # 30, and what the request took
    assert "data-running" in page


def test_the_log_follows(browser: Client, run: Run) -> None:
    jobs.record(claim(run, "sft"), jobs.Report(log=[Log(message="hello <b>"), Log(message="careful", level="warning")]))
    page = text(browser.get(f"/runs/{run.pk}/live/"))
    assert "hello &lt;b&gt;" in page
    assert 'class="line warning"' in page
    assert "data-follow" in page


def test_a_finished_run_shows_rates_with_intervals_and_whether_they_differ(browser: Client, run: Run) -> None:
    finish_run(run)
    page = text(browser.get(f"/runs/{run.pk}/"))
    assert "78.1\u00a0%" in page
    assert "+26.9" in page
    assert page.count("not distinguishable") == 1  # gold
    assert page.count(">clear<") == 1  # proxy
    assert "× 1.43" in page
    assert "longer wins 61.0\u00a0%" in page
    assert "Five side by side" in page
    assert "data-running" not in page


def test_a_report_that_was_removed_from_the_store_leaves_the_page_standing(browser: Client, run: Run) -> None:
    finish_run(run)
    Stage.objects.filter(kind="report").update(digest="0" * 64)
    page = text(browser.get(f"/runs/{run.pk}/"))
    assert "78.1\u00a0%" in page
    assert "Five side by side" not in page


def test_a_report_that_comes_back_into_the_store_is_shown_again(browser: Client, run: Run) -> None:
    finish_run(run)
    folder = store().path(stage_of(run, "report").digest)
    _read_side_by_sides.cache_clear()
    away = folder.rename(folder.with_name("away"))
    try:
        assert "Five side by side" not in text(browser.get(f"/runs/{run.pk}/"))
    finally:
        away.rename(folder)
    assert "Five side by side" in text(browser.get(f"/runs/{run.pk}/"))


def test_a_failure_says_why_and_what_to_do(browser: Client, run: Run, admin: User) -> None:
    fail(run, "sft", "user", "the loss of step 3 is nan; lower sft.learning_rate")
    page = text(browser.get(f"/runs/{run.pk}/"))
    assert "Failed in SFT" in page
    assert "lower sft.learning_rate" in page
    assert "What to do." in page
    assert "Resume" in page
    assert "Traceback: line 1" not in page
    assert "Traceback: line 1" in text(signed_in(admin).get(f"/runs/{run.pk}/"))


def test_out_of_memory_is_a_state_with_advice(browser: Client, run: Run) -> None:
    fail(run, "sft", "out_of_memory", "the device ran out of memory")
    page = text(browser.get(f"/runs/{run.pk}/"))
    assert "Out of memory in SFT" in page
    assert "Lower the micro batch size" in page


def test_stop_and_resume(browser: Client, run: Run) -> None:
    assert browser.post(f"/runs/{run.pk}/stop/")["Location"] == run.get_absolute_url()
    run.refresh_from_db()
    assert run.status == Status.STOPPED
    assert "data-poll-reload" in text(browser.get(f"/runs/{run.pk}/live/?was=live"))
    assert "data-poll-reload" not in text(browser.get(f"/runs/{run.pk}/live/?was=ended"))
    browser.post(f"/runs/{run.pk}/resume/")
    run.refresh_from_db()
    assert run.status == Status.READY
    assert stage_of(run, "sft").status == Status.READY


def test_sharing_and_keeping(browser: Client, run: Run) -> None:
    browser.post(f"/runs/{run.pk}/share/", {"shared": "1"})
    assert Run.objects.get(pk=run.pk).shared
    browser.post(f"/runs/{run.pk}/share/")
    assert not Run.objects.get(pk=run.pk).shared


def test_programs_read_the_state_and_the_results(browser: Client, run: Run) -> None:
    finish_run(run, until="pairs")
    state = browser.get(f"/runs/{run.pk}/status.json").json()
    assert state["status"] in {"ready", "running"}
    assert {stage["key"]: stage["status"] for stage in state["stages"]}["scoring"] == "done"
    assert state["results"]["policy"] == {}
    assert 0.3 < state["share"] < 0.6
    finish_run(run)
    state = browser.get(f"/runs/{run.pk}/status.json").json()
    assert (state["status"], state["share"]) == ("done", 1.0)
    assert state["results"]["policy"]["gold"]["value"] == 0.512
    assert state["results"]["difference"]["proxy"]["verdict"] == "clear"


def test_the_recipe_and_the_lineage_are_shown(browser: Client, run: Run) -> None:
    fail(run, "sft", "transient", "the connection was lost")
    page = text(browser.get(f"/runs/{run.pk}/details/"))
    assert "num_candidates: 16" in page
    assert stage_of(run, "sft").fingerprint in page
    assert "1 × transient" in page
    assert "the connection was lost" in page


def test_runs_tell_how_many_share_a_stage(browser: Client, run: Run, researcher: User) -> None:
    launched(researcher, config_of("second", loss="hinge"))
    assert "shared with 1 run<" in text(browser.get(f"/runs/{run.pk}/live/"))
    progress = {stage.key: stage.shared_with for stage in run_progress(run).stages}
    assert (progress["sampling"], progress["policy_fitting"]) == (1, 0)


def test_the_graph_has_every_stage_once_and_no_arrow_that_follows_from_others(run: Run) -> None:
    graph = run_graph(run_progress(run), edges_of(run.pk))
    places = [(box.column, box.row) for box in graph.boxes]
    assert len(set(places)) == len(places) == run.run_stages.count()
    after = {box.stage.key: set(box.needs) for box in graph.boxes}
    assert after["policy_fitting"] == {"reference log-probs"}
    assert after["scoring"] == {"sampling", "reward model"}
    assert after["report"] == {"SFT win rate", "policy win rate"}
    assert len(graph.arrows) == sum(len(needs) for needs in after.values())


def test_a_stage_that_the_graph_does_not_know_gets_a_place_of_its_own(run: Run) -> None:
    RunStage.objects.filter(run=run, key="report").update(key="something_new")
    graph = run_graph(run_progress(run), edges_of(run.pk))
    assert len({(box.column, box.row) for box in graph.boxes}) == len(graph.boxes)


def test_long_curves_are_thinned_to_their_first_last_and_evenly_spaced_points(run: Run) -> None:
    stage = stage_of(run, "policy_fitting")
    MetricPoint.objects.bulk_create(
        MetricPoint(stage=stage, step=step, values={"loss": 1.0 / step}) for step in range(1, 2346)
    )
    steps = list(thinned([stage.pk]).values_list("step", flat=True))
    assert len(steps) <= MOST_POINTS
    assert (steps[0], steps[-1]) == (1, 2345)
    assert {after - before for before, after in pairwise(steps[:-1])} == {5}
    (curve,) = run_curves(run.pk, "--rso")
    assert curve.last == pytest.approx(1.0 / 2345, rel=1e-4)


def test_the_calibration_of_every_reward_model_is_drawn(browser: Client, researcher: User) -> None:
    parts = {"evaluation": {"gold": "reward_model"}, "gold_reward": {"share": 0.3}}
    run = launched(researcher, RunConfig.model_validate(config_of("with gold").model_dump() | parts))
    finish_run(run)
    curves = {curve.id: curve for curve in run_curves(run.pk, "--rso")}
    assert {"calibration-reward_training", "calibration-gold_reward_training"} <= curves.keys()
    measured, ideal = curves["calibration-gold_reward_training"].figure["data"]
    assert measured["x"] == pytest.approx([0.55, 0.65, 0.75, 0.85])
    assert (measured["y"][0], measured["error_y"]["array"][0]) == pytest.approx((0.53, 0.08))
    assert ideal["x"] == ideal["y"]
    assert "Gold reward model, accuracy" in text(browser.get(f"/runs/{run.pk}/"))
    places = [(box.column, box.row) for box in run_graph(run_progress(run), edges_of(run.pk)).boxes]
    assert len(set(places)) == len(places) == run.run_stages.count()


def test_auto_sxs_stands_beside_the_win_rates_with_all_that_was_counted(browser: Client, researcher: User) -> None:
    judge = {"judge": {"backend": "model", "model": "tiny"}}
    run = launched(researcher, RunConfig.model_validate(config_of("judged").model_dump() | judge))
    finish_run(run)
    page = text(browser.get(f"/runs/{run.pk}/"))
    for shown in (
        "AutoSxS",
        "31 wins",
        "12 ties",
        "15 losses",
        "unjudged 2",
        "order flips 4",
        "unparseable 19 of 480",
        "better than chance",
    ):
        assert shown in page
    assert "doubtful" not in page
    places = [(box.column, box.row) for box in run_graph(run_progress(run), edges_of(run.pk)).boxes]
    assert len(set(places)) == len(places) == run.run_stages.count()

    report = stage_of(run, "report")
    report.summary["judge"]["better_than_chance"] = False
    report.save()
    page = text(browser.get(f"/runs/{run.pk}/"))
    assert "judge not better than chance" in page
    assert "doubtful" in page


def test_speed_is_learnt_from_finished_stages_of_the_same_model_only(run: Run) -> None:
    finish_run(run)
    sft = stage_of(run, "sft")
    started = timezone.now()
    Stage.objects.filter(pk=sft.pk).update(started=started, finished=started + timedelta(seconds=50), work_units=100)
    assert measured_speeds("tiny")["sft"].seconds_per_unit == pytest.approx(0.5)
    assert measured_speeds("another model") == {}


def test_proxy_gold_and_divergence_along_checkpoints_are_one_chart_with_two_axes(browser: Client, run: Run) -> None:
    stage = stage_of(run, "checkpoint_figures")
    for step, proxy, gold, kl in ((120, 0.6, 0.55, 0.8), (240, 0.9, 0.4, 6.5)):
        values = {"proxy_along": proxy, "gold_along": gold, "kl": kl}
        MetricPoint.objects.create(stage=stage, step=step, values=values)

    (curve,) = run_curves(run.pk, "--rso")

    traces = curve.figure["data"]
    assert [trace["name"] for trace in traces] == ["proxy win rate", "gold win rate", "KL"]
    assert [trace.get("yaxis", "y") for trace in traces] == ["y", "y", "y2"]
    assert [trace["y"] for trace in traces] == [[0.6, 0.9], [0.55, 0.4], [0.8, 6.5]]
    assert curve.figure["layout"]["yaxis2"]["side"] == "right"
    assert "proxy, gold and KL from π_sft along checkpoints" in text(browser.get(f"/runs/{run.pk}/curves/"))
