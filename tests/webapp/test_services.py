from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from django.utils import timezone
from pytest_django import Settings

from rso_core.artifacts import ROWS, write_rows
from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.vocabulary import COLUMNS
from tests.webapp.graphs import CONFIG, claim, digest_of, finish, finish_stage, researcher, stage_of, statuses
from tests.webapp.test_jobs import in_threads
from webapp.accounts.models import User
from webapp.runs import jobs, services
from webapp.runs.artifacts import store
from webapp.runs.failures import Failed
from webapp.runs.models import Dataset, Pair, RegisteredModel, Run, RunStage, Shard, Stage, StageInput
from webapp.runs.progress import StageProgress, run_progress

pytestmark = pytest.mark.django_db

ROW_COUNTS = {"rows_in": 42, "rows_kept": 40, "rows_rejected": 2}
PAIR_SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("chosen_index", pa.int32()),
        ("rejected_index", pa.int32()),
        ("probability", pa.float64()),
        ("row_id", pa.int64()),
        ("messages", pa.string()),
    ]
)


@pytest.fixture(autouse=True)
def own_folders(settings: Settings, tmp_path: Path) -> None:
    settings.VAR_DIR, settings.ARTIFACT_URL = tmp_path, str(tmp_path / "artifacts")
    settings.CELERY_BROKER_URL = "filesystem://"


@pytest.fixture
def user() -> User:
    return researcher()


def artifact(kind: str, name: str, prompts: int = 40) -> str:
    """Commit an imported dataset of made-up posts and return its digest."""
    columns = COLUMNS[kind]
    schema = pa.schema([(column, pa.int64() if column == "row_id" else pa.string()) for column in columns])
    rows = [
        {column: f"{name} {column} {i}" for column in columns}
        | {"row_id": i + 1, "prompt_id": f"{i:016x}", "root": f"{i:016x}"}
        for i in range(prompts)
    ]
    folder = store().staging()
    write_rows(folder / ROWS, rows, schema)
    return store().commit(folder, kind="import_dataset")


def import_everything(user: User) -> None:
    for kind in ("preference", "sft"):
        name = {"preference": "preferences"}.get(kind, kind)
        Dataset.objects.create(
            owner=user, name=name, kind=kind, task="summarization", digest=artifact(kind, name), **ROW_COUNTS
        )
    RegisteredModel.objects.create(owner=user, name="base", digest="b" * 64, family="seq2seq")


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(CONFIG.model_dump() | changes)


def launch(user: User, **changes: Any) -> Run:
    plan, _, _ = services.preview_plan(config=config(**changes), user=user)
    profile = services.request_profile(plan=plan)
    if (claimed := jobs.claim(stage_id=profile.pk, worker="worker")) is not None:
        finish(claimed)
    return services.launch_run(config=config(**changes), user=user)


def test_a_preview_counts_and_creates_nothing(user: User) -> None:
    import_everything(user)
    plan, done, known = services.preview_plan(config=config(), user=user)
    assert plan.counts["train_prompts"] > 0
    assert (done, known) == (set(), {})
    assert not Stage.objects.exists()


def test_a_run_is_launched_only_after_its_length_profile_has_been_made(user: User) -> None:
    import_everything(user)
    with pytest.raises(UserError, match="length profile"):
        services.launch_run(config=config(), user=user)
    assert not Run.objects.exists()
    run = launch(user)
    assert run.config == config().model_dump(mode="json")
    assert statuses(run)["length_profile"] == "done"
    assert statuses(run)["sft"] == "ready"


def test_a_launched_run_has_the_shards_and_arrows_of_its_plan(user: User) -> None:
    import_everything(user)
    run = launch(user, sampling={"prompts_per_shard": 10})
    plan, _, _ = services.preview_plan(config=config(sampling={"prompts_per_shard": 10}), user=user)
    for planned in plan.stages:
        stage = stage_of(run, planned.key)
        assert stage.shards.count() == planned.shards
        arrows = StageInput.objects.filter(stage=stage).values_list("name", "upstream__fingerprint")
        assert dict(arrows) == {name: plan.stage(key).fingerprint for name, key in planned.needs.items()}
    assert stage_of(run, "sampling").shard_count > 1


def test_a_second_run_reuses_what_it_shares_and_its_finished_stages_at_once(user: User) -> None:
    import_everything(user)
    first = launch(user)
    finish_stage(first, "sft")
    second = launch(user, name="other loss", fitting={"loss": "hinge"})
    reused = set(RunStage.objects.filter(run=second, reused=True).values_list("key", flat=True))
    assert {"length_profile", "sft", "reward_training", "sampling", "scoring", "pairs"} <= reused
    assert not {"policy_fitting", "checkpoint_selection", "report"} & reused
    assert statuses(second)["sft"] == "done"
    assert not RunStage.objects.filter(run=first, reused=True).exclude(key="length_profile").exists()


@pytest.mark.django_db(transaction=True)
def test_the_same_run_launched_by_many_at_once_shares_every_stage(user: User) -> None:
    import_everything(user)
    launch(user)
    Stage.objects.exclude(kind="length_profile").filter(runs=None).delete()
    changes = {"seed": 5}
    plan, _, _ = services.preview_plan(config=config(**changes), user=user)
    runs = in_threads(6, lambda _: services.launch_run(config=config(**changes), user=user))
    assert Stage.objects.filter(fingerprint__in=[stage.fingerprint for stage in plan.stages]).count() == len(
        plan.stages
    )
    assert RunStage.objects.filter(run__in=runs).count() == 6 * len(plan.stages)
    new = RunStage.objects.filter(run__in=runs, key="sft", reused=False)
    assert new.count() == 1
    assert Shard.objects.filter(stage=stage_of(runs[0], "sampling")).count() == plan.stage("sampling").shards


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: Dataset.objects.filter(name="sft").delete(), "no dataset is called 'sft'"),
        (lambda: Dataset.objects.filter(name="sft").update(digest=""), "'sft' has not been imported yet"),
        (lambda: RegisteredModel.objects.update(digest=""), "'base' has not been imported yet"),
        (lambda: Dataset.objects.update(shared=False, owner=researcher("owner")), "no dataset is called"),
    ],
    ids=["absent", "dataset unfinished", "model unfinished", "somebody else's"],
)
def test_a_plan_needs_data_that_is_there_and_may_be_seen(user: User, spoil: Callable[[], object], message: str) -> None:
    import_everything(user)
    spoil()
    with pytest.raises(UserError, match=message):
        services.preview_plan(config=config(), user=user)


def import_dataset(user: User, name: str = "posts", **options: Any) -> Dataset:
    return services.request_dataset_import(
        owner=user, name=name, kind="sft", task="summarization", config={}, upload_digest="c" * 64, **options
    )


def finish_import(stage: Stage, **summary: Any) -> None:
    jobs.finish_shard(jobs.claim(stage_id=stage.pk, worker="worker"), digest="d" * 64, summary=summary)


def test_a_finished_import_completes_its_dataset(user: User) -> None:
    dataset = import_dataset(user, source="a file", licence="MIT")
    assert (dataset.digest, dataset.stage.status, dataset.stage.queue) == ("", "ready", "cpu")
    assert dataset.stage.input_digests == {"upload": "c" * 64}
    finish_import(dataset.stage, **ROW_COUNTS, reasons={"empty": 2})
    dataset.refresh_from_db()
    assert dataset.digest == "d" * 64
    assert (dataset.rows_in, dataset.rows_kept, dataset.rows_rejected) == (42, 40, 2)
    assert dataset.summary["reasons"] == {"empty": 2}


def test_an_import_that_loses_rows_fails_and_says_so(user: User) -> None:
    dataset = import_dataset(user)
    with pytest.raises(Exception, match="dataset_rows_are_conserved"):
        finish_import(dataset.stage, rows_in=42, rows_kept=40, rows_rejected=1)


def test_the_same_file_imported_twice_is_read_once(user: User) -> None:
    first = import_dataset(user)
    waiting = import_dataset(user, "again")
    finish_import(first.stage, **ROW_COUNTS)
    late = import_dataset(user, "and again")
    for dataset in (waiting, late):
        dataset.refresh_from_db()
        assert (dataset.stage, dataset.digest, dataset.rows_kept) == (first.stage, "d" * 64, 40)


def test_a_failed_import_is_tried_again_when_somebody_asks_again(user: User) -> None:
    first = import_dataset(user)
    claimed = jobs.claim(stage_id=first.stage.pk, worker="worker")
    jobs.fail_shard(claimed, Failed("user", "line 3 is not JSON"))
    first.stage.refresh_from_db()
    assert (first.stage.status, first.stage.message) == ("failed", "line 3 is not JSON")
    assert import_dataset(user, "again").stage.status == "ready"


def test_an_import_goes_on_when_a_run_that_shares_nothing_stops(user: User) -> None:
    import_everything(user)
    dataset = import_dataset(user)
    services.stop_run(run=launch(user))
    dataset.stage.refresh_from_db()
    assert dataset.stage.status == "ready"


def test_names_are_unique(user: User) -> None:
    import_dataset(user)
    with pytest.raises(UserError, match="'posts' already"):
        import_dataset(user)
    services.request_model_import(owner=user, name="t5", config={"hub": "google/t5"})
    with pytest.raises(UserError, match="'t5' already"):
        services.request_model_import(owner=user, name="t5", config={"hub": "google/t5"})


@pytest.mark.django_db(transaction=True)
def test_a_name_asked_for_by_many_at_once_is_given_once(user: User) -> None:
    def ask(index: int) -> bool:
        try:
            services.request_model_import(owner=user, name="t5", config={"hub": f"google/t{index}"})
        except UserError:
            return False
        return True

    assert sum(in_threads(6, ask)) == 1


def test_a_finished_import_completes_its_model(user: User) -> None:
    model = services.request_model_import(owner=user, name="t5", config={"path": "/models/t5"})
    finish_import(model.stage, family="seq2seq", parameters=7)
    model.refresh_from_db()
    assert (model.digest, model.family, model.summary["parameters"]) == ("d" * 64, "seq2seq", 7)


def test_one_click_makes_targets_of_chosen_replies(user: User) -> None:
    import_everything(user)
    preferences = Dataset.objects.get(name="preferences")
    derived = services.derive_sft_dataset(dataset=preferences, owner=user, name="chosen")
    assert (derived.kind, derived.derived_from) == ("sft", preferences)
    assert derived.stage.input_digests == {"dataset": preferences.digest}
    with pytest.raises(UserError, match="only an imported preference dataset"):
        services.derive_sft_dataset(dataset=derived, owner=user, name="chosen twice")


def test_pairs_are_loaded_for_people_to_look_at(user: User) -> None:
    import_everything(user)
    run = launch(user, pairs={"pair_source": "direct"})
    finish_stage(run, "sft")
    nasty = 'tab\tline\nreturn\rback\\slash \\N quote" nul\x00 emoji 🙂'
    rows = [
        dict.fromkeys(PAIR_SCHEMA.names)
        | {"index": i, "prompt_id": "p", "prompt": nasty, "chosen": f"good {i}", "rejected": "", "messages": "[]"}
        for i in range(3)
    ]
    rows[1] |= {"chosen_index": 3, "rejected_index": 5, "probability": 0.75}
    folder = store().staging()
    write_rows(folder / ROWS, rows, PAIR_SCHEMA)
    digest = store().commit(folder, kind="preference_pairs")
    jobs.finish_shard(claim(run, "pairs"), digest=digest, summary={"pairs": 3})
    pairs = list(Pair.objects.all())
    assert [pair.chosen for pair in pairs] == ["good 0", "good 1", "good 2"]
    assert {pair.prompt for pair in pairs} == {nasty.replace("\x00", "\ufffd")}
    assert (pairs[0].probability, pairs[0].chosen_index, pairs[0].rejected) == (None, None, "")
    assert (pairs[1].probability, pairs[1].chosen_index, pairs[1].rejected_index) == (0.75, 3, 5)


def test_progress_counts_shards_and_what_runs(user: User) -> None:
    import_everything(user)
    run = launch(user, sampling={"prompts_per_shard": 10})
    finish_stage(run, "sft")
    finish(claim(run, "sampling"))
    running = claim(run, "sampling")
    jobs.record(running, jobs.Report(jobs.Progress(done=5, total=10, unit="prompts", tokens_per_second=7.0)))
    progress = run_progress(run)
    stage = next(item for item in progress.stages if item.key == "sampling")
    assert (stage.shards_done, stage.done, stage.total, stage.unit) == (1, 5, 10, "prompts")
    assert stage.share == pytest.approx(1.5 / stage.shards)
    assert stage.tokens_per_second == 7.0
    assert stage.seconds_left == pytest.approx(stage.seconds * (1 - stage.share) / stage.share)
    assert progress.stages_done == 2
    assert 2 / len(progress.stages) < progress.share < 3 / len(progress.stages)


def test_after_a_resume_rates_and_time_left_come_from_this_attempt_alone(user: User) -> None:
    import_everything(user)
    run = launch(user)
    jobs.record(claim(run, "sft"), jobs.Report(jobs.Progress(done=40, total=100, unit="steps")))
    Shard.objects.filter(stage=stage_of(run, "sft")).update(status="ready")
    Stage.objects.filter(pk=stage_of(run, "sft").pk).update(started=timezone.now() - timedelta(hours=1))
    resumed = claim(run, "sft")

    def shown() -> StageProgress:
        return next(item for item in run_progress(run).stages if item.key == "sft")

    assert (shown().seconds_left, shown().units_per_second) == (None, None)  # nothing is known of this attempt
    jobs.record(resumed, jobs.Report(jobs.Progress(done=50, total=100, unit="steps", resumed=40)))
    now = timezone.now()
    Shard.objects.filter(pk=resumed.shard_id).update(started=now - timedelta(seconds=10), progress_at=now)
    assert shown().seconds_left == pytest.approx(50, rel=0.1)
    assert shown().units_per_second == pytest.approx(1.0)


def test_a_finished_stage_shows_all_it_counted_and_its_tokens_for_each_of_its_seconds(user: User) -> None:
    import_everything(user)
    run = launch(user, sampling={"prompts_per_shard": 10})
    finish_stage(run, "sft")
    while (claimed := claim(run, "sampling")) is not None:
        jobs.record(claimed, jobs.Report(jobs.Progress(done=10, total=10, unit="prompts", tokens_per_second=8.0)))
        finish(claimed)
    sampled = stage_of(run, "sampling")
    # Two workers at a time: the shards took twice as long together as the stage.
    sampled.shards.update(started="2026-01-01T00:00:00Z", finished="2026-01-01T00:00:10Z")
    Stage.objects.filter(pk=sampled.pk).update(
        started="2026-01-01T00:00:00Z", finished=f"2026-01-01T00:00:{5 * sampled.shard_count:02d}Z"
    )
    stage = next(item for item in run_progress(run).stages if item.key == "sampling")
    assert (stage.done, stage.total, stage.unit) == (10 * stage.shards, 10 * stage.shards, "prompts")
    assert stage.tokens_per_second == pytest.approx(16.0)


def test_a_run_with_no_new_work_is_done_at_once(user: User) -> None:
    import_everything(user)
    first = launch(user)
    for item in first.run_stages.order_by("order"):
        Stage.objects.filter(pk=item.stage_id).update(status="done", digest=digest_of(item.stage_id))
    second = launch(user)
    assert (second.status, second.finished is not None) == ("done", True)
