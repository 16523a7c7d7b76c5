"""Deleting runs, datasets and models: each refusal, what goes, what others keep, and stopping an import."""

import os
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import ProtectedError
from django.db.models.functions import Now
from django.test import Client
from pydantic import BaseModel

from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.study_presets import preset_study
from tests.webapp.human_eval.made_campaigns import made_campaign
from tests.webapp.made_runs import config_of, finish_run, imported, launched, signed_in
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval.abandoned_uploads import is_referred_to
from webapp.runs import deletion, jobs, services
from webapp.runs.artifacts import store
from webapp.runs.imports import retry_import, stop_import
from webapp.runs.models import (
    Dataset,
    LogLine,
    Pair,
    RegisteredModel,
    Run,
    RunStage,
    Shard,
    Stage,
    Status,
    UnusedArtifact,
)
from webapp.runs.unused_artifacts import remove_unused
from webapp.studies.models import Study
from webapp.studies.services import start_study

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner(researcher: User, own_folder: None) -> User:
    imported(researcher, prompts=40)
    return researcher


@pytest.fixture
def run(owner: User) -> Run:
    return finish_run(launched(owner, config_of("Doomed", pair_source="direct")))


def dataset(name: str = "preferences") -> Dataset:
    return Dataset.objects.get(name=name)


def tiny() -> RegisteredModel:
    return RegisteredModel.objects.get(name="tiny")


def page(client: Client, item: Any) -> str:
    return client.get(f"{item.get_absolute_url()}delete/").content.decode()


def importing(owner: User, name: str = "posts") -> Dataset:
    return services.request_dataset_import(
        owner=owner, name=name, kind="sft", task="dialogue", config={"layout": "auto"}, source="a file"
    )


def an_hour_passes() -> None:
    UnusedArtifact.objects.update(noted=Now() - timedelta(hours=2))
    before = time.time() - 7200
    for unused in UnusedArtifact.objects.all():
        os.utime(store().path(unused.digest) / "manifest.json", (before, before))


# Refusals


def test_a_run_that_goes_on_is_not_deleted(owner: User) -> None:
    run = launched(owner)
    with pytest.raises(UserError, match=r"it goes on\. Stop it first"):
        deletion.delete(owner, run)
    assert Run.objects.filter(pk=run.pk).exists()


def test_a_run_that_people_rate_is_not_deleted(run: Run, owner: User, admin: User) -> None:
    campaign = made_campaign(owner, items=1, name="About it")
    campaign.systems.filter(index=0).update(kind="policy", run=run)
    with pytest.raises(UserError, match="the campaign About it is about it"):
        deletion.delete(owner, run)
    campaign.owner, campaign.shared = admin, False
    campaign.save()
    with pytest.raises(
        UserError, match=f"a campaign of {admin.username} is about it"
    ):  # what it is called stays private
        deletion.delete(owner, run)


@pytest.mark.parametrize("find", [dataset, lambda: dataset("targets"), tiny])
def test_what_a_run_that_goes_on_uses_is_not_deleted(owner: User, find: Any) -> None:
    run = launched(owner, config_of("Busy"))
    with pytest.raises(UserError, match="the run Busy goes on and uses it"):
        deletion.delete(owner, find())
    services.stop_run(run=run)
    deletion.delete(owner, find())


def test_the_prompts_of_a_campaign_are_not_deleted(owner: User) -> None:
    made_campaign(owner, items=1, name="Asked", dataset=dataset("targets"), split="test")
    with pytest.raises(UserError, match="the campaign Asked is about it"):
        deletion.delete(owner, dataset("targets"))


def test_a_dataset_is_not_deleted_while_another_is_made_from_it(owner: User) -> None:
    services.derive_sft_dataset(dataset=dataset(), owner=owner, name="chosen")
    with pytest.raises(UserError, match="the dataset chosen is being made from it"):
        deletion.delete(owner, dataset())


def test_what_is_being_imported_is_not_deleted(owner: User) -> None:
    with pytest.raises(UserError, match=r"it is being imported\. Stop the import first"):
        deletion.delete(owner, importing(owner))


def test_what_this_part_has_never_heard_of_still_forbids_it(
    run: Run, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_campaign(owner, items=1).systems.filter(index=0).update(kind="policy", run=run)
    monkeypatch.setattr(deletion, "_DEPENDENTS", [])
    with pytest.raises(UserError, match="a system depends on it"):
        deletion.delete(owner, run)
    assert RunStage.objects.filter(run=run).exists()  # all of it was undone
    with pytest.raises(ProtectedError), transaction.atomic():
        run.delete()


@pytest.mark.parametrize("kind", ["run", "dataset", "model"])
def test_only_the_owner_and_admins_delete(run: Run, admin: User, kind: str) -> None:
    item = {"run": run, "dataset": dataset(), "model": tiny()}[kind]
    type(item)._default_manager.update(shared=True)
    other = User.objects.create_user("other", role="researcher")
    url = f"{item.get_absolute_url()}delete/"
    assert [signed_in(other).get(url).status_code, signed_in(other).post(url).status_code] == [403, 403]
    assert type(item)._default_manager.filter(pk=item.pk).exists()
    assert signed_in(admin).post(url).status_code == 302
    assert not type(item)._default_manager.filter(pk=item.pk).exists()


def test_a_run_in_the_table_of_a_study_is_not_deleted(run: Run, owner: User) -> None:
    study = Study.objects.create(owner=owner, name="Grid", definition="{}")
    study.cells.create(arm="rso", seed=0, order=0, run=run)
    with pytest.raises(UserError, match="the study Grid has it in its table"):
        deletion.delete(owner, run)


def test_what_a_study_is_going_to_use_is_not_deleted(owner: User) -> None:
    start_study(plan=preset_study("table_3", base=config_of(), seeds=[0]), user=owner)
    for item in (dataset(), tiny()):
        with pytest.raises(UserError, match=r"runs of the study .* that are to be launched need it"):
            deletion.delete(owner, item)
    unused = Dataset.objects.create(owner=owner, name="unused", kind="sft", digest="b" * 64)
    deletion.delete(owner, unused)


# What goes and what stays


def test_the_page_says_what_goes_and_the_form_does_it(run: Run, owner: User) -> None:
    client = signed_in(owner)
    shown = page(client, run)
    assert "The run Doomed with its recipe and its results" in shown
    assert "60 pairs" in shown
    assert "policy fitting" in shown.lower()
    assert Run.objects.filter(pk=run.pk).exists()  # looking deletes nothing

    response = client.post(f"{run.get_absolute_url()}delete/", follow=True)
    assert "Doomed was deleted." in response.content.decode()
    assert not Run.objects.exists()
    assert [kind for kind in (Stage, Shard, Pair, LogLine) if kind._default_manager.exists()] == []
    entry = AuditEntry.objects.get(action="deleted")
    assert (entry.actor, entry.kind, entry.label, entry.number) == (owner, "run", "Doomed", run.pk)
    assert client.get("/").status_code == client.get("/runs/").status_code == 200


def test_the_page_of_what_cannot_be_deleted_has_no_button(owner: User) -> None:
    run = launched(owner)
    client = signed_in(owner)
    assert "It cannot be deleted now" in page(client, run)
    assert "<button" not in page(client, run).split('<div class="actions">')[-1].split("</div>")[0]
    refused = client.post(f"{run.get_absolute_url()}delete/").content.decode()
    assert "Doomed" not in refused
    assert "Stop it first" in refused


def test_stages_and_files_that_another_run_needs_stay_until_it_goes(run: Run, owner: User) -> None:
    other = finish_run(launched(owner, config_of("Other", pair_source="direct", loss="hinge")))
    shared = set(other.run_stages.values_list("stage", flat=True)) & set(run.run_stages.values_list("stage", flat=True))
    digests = set(Stage.objects.filter(pk__in=shared).values_list("digest", flat=True))
    pairs = Pair.objects.count()
    assert "that something else needs as well" in page(signed_in(owner), run)

    deletion.delete(owner, run)
    an_hour_passes()
    remove_unused(is_referred_to)
    other.refresh_from_db()
    assert other.status == Status.DONE
    assert other.run_stages.count() == Stage.objects.count()
    assert Pair.objects.count() == pairs
    assert all(store().exists(digest) for digest in digests)
    assert signed_in(owner).get(other.get_absolute_url()).status_code == 200

    deletion.delete(owner, other)
    assert not Stage.objects.exists()
    an_hour_passes()
    remove_unused(is_referred_to)
    kept = {item.digest for item in (dataset(), dataset("targets"), tiny())}
    assert not any(store().exists(digest) for digest in digests - kept)
    assert all(store().exists(digest) for digest in kept)
    assert not UnusedArtifact.objects.exists()


def test_the_files_of_a_dataset_stay_while_a_run_made_with_it_is_there(run: Run, owner: User) -> None:
    digest = dataset().digest
    assert "1 run made with it, with all results" in page(signed_in(owner), dataset())
    deletion.delete(owner, dataset())
    an_hour_passes()
    assert remove_unused(is_referred_to) == 0
    assert store().exists(digest)
    for address in ("", "details/", "pairs/", "live/"):
        assert signed_in(owner).get(f"{run.get_absolute_url()}{address}").status_code == 200, address


def test_datasets_made_from_a_deleted_one_stay(owner: User) -> None:
    made = Dataset.objects.create(owner=owner, name="made", kind="sft", derived_from=dataset(), digest="a" * 64)
    deletion.delete(owner, dataset())
    made.refresh_from_db()
    assert made.derived_from is None


def test_files_that_were_written_again_stay_for_another_hour(owner: User) -> None:
    digest = tiny().digest
    deletion.delete(owner, tiny())
    assert remove_unused(is_referred_to) == 0  # nothing is due yet
    an_hour_passes()
    os.utime(store().path(digest) / "manifest.json")
    assert remove_unused(is_referred_to) == 0
    assert store().exists(digest)
    an_hour_passes()
    assert remove_unused(is_referred_to) == 1
    assert not store().exists(digest)


def test_a_worker_whose_stage_was_deleted_learns_that_its_lease_is_lost(owner: User) -> None:
    run = launched(owner)
    stage = run.run_stages.get(key="sft").stage
    claim = jobs.claim(stage_id=stage.pk, worker="gpu@here")
    assert claim is not None
    services.stop_run(run=run)
    deletion.delete(owner, run)
    assert not Stage.objects.filter(pk=stage.pk).exists()
    for write in (
        lambda: jobs.record(claim),
        lambda: jobs.finish_shard(claim, digest="a" * 64, summary={}),
        lambda: jobs.release(claim),
    ):
        with pytest.raises(jobs.LeaseLost):
            write()


# Imports


def test_an_import_is_stopped_and_tried_again(owner: User) -> None:
    item = importing(owner)
    claim = jobs.claim(stage_id=item.stage_id or 0, worker="cpu@here")
    assert claim is not None
    client = signed_in(owner)
    assert "Stop the import" in client.get(item.get_absolute_url()).content.decode()
    shown = client.post(f"{item.get_absolute_url()}stop/", follow=True).content.decode()
    assert f"{owner.username} stopped it." in shown
    assert "Try again" in shown
    with pytest.raises(jobs.LeaseLost):  # which ends its runner
        jobs.record(claim)
    item.refresh_from_db()
    retry_import(owner, item)
    assert Stage.objects.get(pk=item.stage_id).status == Status.READY


def test_only_an_import_that_goes_on_is_stopped(owner: User) -> None:
    with pytest.raises(UserError, match="nothing of 'preferences' is being imported now"):
        stop_import(owner, dataset())


def test_an_import_that_somebody_else_waits_for_goes_on(owner: User, admin: User) -> None:
    mine = importing(owner)
    importing(admin, name="the same")
    with pytest.raises(UserError, match=f"{admin.username} imports the same"):
        stop_import(owner, mine)
    assert Stage.objects.get(pk=mine.stage_id).status == Status.READY


# The table behind it


@pytest.mark.django_db(transaction=True)
def test_the_table_of_unused_artifacts_can_be_taken_back_and_made_again() -> None:
    with connection.cursor() as cursor:
        call_command("migrate", "runs", "0004", verbosity=0)
        assert "runs_unusedartifact" not in connection.introspection.table_names(cursor)
        call_command("migrate", verbosity=0)
        assert "runs_unusedartifact" in connection.introspection.table_names(cursor)


def test_every_setting_that_names_a_dataset_or_a_model_is_looked_at() -> None:
    """A new one fails here until deletion knows it."""
    named = {
        f"{section}__{name}"
        for section, field in RunConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for name, inner in field.annotation.model_fields.items()
        if inner.annotation is str and name in {"model", "base", "preferences", "sft"}
    }
    assert named == {*deletion.DATASET_SETTINGS, *deletion.MODEL_SETTINGS}
