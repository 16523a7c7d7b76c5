"""What people do with runs: preview, launch, stop, resume, import. Rules that span several tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from rso_core.config import SCHEMA_VERSION, RunConfig
from rso_core.endpoint_settings import allowed_models
from rso_core.errors import UserError
from rso_core.plan import Plan, PlannedStage, fingerprint_of
from rso_core.planner import build_plan
from rso_core.run_data import RunData, models_of, preferences_of, targets_of
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.runs.artifacts import store
from webapp.runs.completion import fill_dataset, fill_model
from webapp.runs.estimates import work_units
from webapp.runs.models import (
    LIVE,
    Dataset,
    RegisteredModel,
    Run,
    RunStage,
    Shard,
    Stage,
    StageInput,
    Status,
)
from webapp.runs.progress import run_progress
from webapp.runs.transitions import lock_stages, make_ready, refresh_runs, revive, stop_unwanted

__all__ = [
    "create_run",
    "derive_sft_dataset",
    "ensure_stages",
    "launch_run",
    "lock_creation_of_stages",
    "preview_plan",
    "request_dataset_import",
    "request_model_import",
    "request_profile",
    "resume_run",
    "run_data",
    "run_progress",
    "stop_run",
]

_CREATING_STAGES = 230906657  # key of the advisory lock held while stages are created


def run_data(*, config: RunConfig, user: User) -> RunData:
    """Return the imported datasets and models that this person may use, by name.

    Raises UserError when the configuration names one whose import has not finished.
    """
    datasets = dict(Dataset.objects.visible_to(user).values_list("name", "digest"))
    models = dict(RegisteredModel.objects.visible_to(user).values_list("name", "digest"))
    _refuse_unfinished("dataset", datasets, [*preferences_of(config), *targets_of(config)])
    _refuse_unfinished("model", models, models_of(config))
    return RunData(store(), _finished(datasets), _finished(models), allowed_models())


def _finished(digests: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if digest}


def _refuse_unfinished(what: str, digests: Mapping[str, str], names: Sequence[str]) -> None:
    for name in names:
        if digests.get(name) == "":
            message = f"the {what} {name!r} has not been imported yet; wait until its page says that it is done, or choose another"
            raise UserError(message)


def preview_plan(*, config: RunConfig, user: User) -> tuple[Plan, set[str], dict[str, str]]:
    """Return the plan of a run, the fingerprints already done, and the status of every one that exists."""
    plan = build_plan(config, run_data(config=config, user=user))
    found = Stage.objects.filter(fingerprint__in=[stage.fingerprint for stage in plan.stages])
    statuses = dict(found.values_list("fingerprint", "status"))
    return plan, {name for name, status in statuses.items() if status == Status.DONE}, statuses


def request_profile(*, plan: Plan) -> Stage:
    """Return the length profile of a plan, asking for it first if nobody has."""
    planned = plan.stage("length_profile")
    return ensure_stages([planned])[planned.key]


def launch_run(
    *,
    config: RunConfig,
    user: User,
    name: str | None = None,
    cloned_from: Run | None = None,
    token: UUID | None = None,
) -> Run:
    """Create a run and the stages it does not share with earlier ones.

    A form sent twice with the same `token` and settings makes one run. Raises UserError when the plan is impossible, or its length profile has not been made and so nobody can
    have seen what truncation would do.
    """
    plan, done, _ = preview_plan(config=config, user=user)
    if plan.stage("length_profile").fingerprint not in done:
        message = "the length profile of this data and model is not ready: open the plan preview, wait for it and look at the counts of truncated rows, then launch"
        raise UserError(message)
    return create_run(plan=plan, config=config, user=user, name=name, cloned_from=cloned_from, token=token)


def create_run(
    *,
    plan: Plan,
    config: RunConfig,
    user: User,
    name: str | None = None,
    cloned_from: Run | None = None,
    token: UUID | None = None,
) -> Run:
    """Create a run of a plan and the stages that no earlier run asked for, in one transaction."""
    values = config.model_dump(mode="json")
    with transaction.atomic():
        stages, created = _ensure(plan.stages)
        earlier = Run.objects.filter(launch_token=token).first() if token else None
        if earlier is not None and (earlier.owner_id, earlier.config) == (user.pk, values):
            return earlier
        run = Run.objects.create(
            owner=user,
            name=name or config.name,
            config=values,
            schema_version=SCHEMA_VERSION,
            cloned_from=cloned_from,
            launch_token=None if earlier else token,
        )
        _count_work([stages[item.key] for item in plan.stages], work_units(config, plan))
        RunStage.objects.bulk_create(
            RunStage(run=run, stage=stages[item.key], key=item.key, order=order, reused=item.fingerprint not in created)
            for order, item in enumerate(plan.stages)
        )
        refresh_runs(Run.objects.filter(pk=run.pk))
        record(user, "launched", run, **({"cloned_from": cloned_from.pk} if cloned_from else {}))
    run.refresh_from_db()
    return run


def _count_work(stages: Iterable[Stage], units: Mapping[str, float]) -> None:
    for stage in stages:
        if stage.work_units is None and stage.fingerprint in units:
            stage.work_units = units[stage.fingerprint]
            stage.save(update_fields=["work_units"])


def ensure_stages(planned: Sequence[PlannedStage]) -> dict[str, Stage]:
    """Return the stages of a plan by key, made where they do not exist and tried again where they failed."""
    with transaction.atomic():
        return _ensure(planned)[0]


def lock_creation_of_stages() -> None:
    """Let nobody else create, share or delete stages until this transaction ends.

    Two launches that create the same stages in different orders would otherwise wait for each other.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CREATING_STAGES])


def _ensure(planned: Sequence[PlannedStage]) -> tuple[dict[str, Stage], set[str]]:
    """Return the stages by key, and the fingerprints that did not exist before."""
    lock_creation_of_stages()
    wanted = Stage.objects.filter(fingerprint__in=[item.fingerprint for item in planned])
    created = {item.fingerprint for item in planned} - set(wanted.values_list("fingerprint", flat=True))
    Stage.objects.bulk_create(
        (_new_stage(item) for item in planned if item.fingerprint in created), ignore_conflicts=True
    )
    by_fingerprint = {stage.fingerprint: stage for stage in lock_stages(wanted)}
    stages = {item.key: by_fingerprint[item.fingerprint] for item in planned}
    _create_parts([item for item in planned if item.fingerprint in created], stages)
    revive(by_fingerprint.values())
    make_ready(by_fingerprint.values())
    for stage in by_fingerprint.values():
        stage.refresh_from_db()
    return stages, created


def _new_stage(planned: PlannedStage) -> Stage:
    return Stage(
        fingerprint=planned.fingerprint,
        kind=planned.kind,
        queue=planned.queue,
        config=planned.config,
        input_digests=planned.digests,
        shard_count=planned.shards,
        work=planned.work,
    )


def _create_parts(planned: Sequence[PlannedStage], stages: Mapping[str, Stage]) -> None:
    """Create the shards and inputs of new stages."""
    Shard.objects.bulk_create(
        (Shard(stage=stages[item.key], index=index) for item in planned for index in range(item.shards)),
        ignore_conflicts=True,
    )
    StageInput.objects.bulk_create(
        (
            StageInput(stage=stages[item.key], name=name, upstream=stages[needed])
            for item in planned
            for name, needed in item.needs.items()
        ),
        ignore_conflicts=True,
    )


def stop_run(*, run: Run, by: User | None = None) -> None:
    """Withdraw a run's claim on its stages: those that no other live run wants stop. Does nothing to a finished run."""
    with transaction.atomic():
        lock_stages(Stage.objects.filter(run_stages__run=run))
        if Run.objects.filter(pk=run.pk, status__in=LIVE).update(status=Status.STOPPED, finished=Now()):
            record(by, "stopped", run)
        stop_unwanted(Stage.objects.filter(run_stages__run=run))
    run.refresh_from_db()


def resume_run(*, run: Run, by: User | None = None) -> None:
    """Go on with a run that was stopped or failed; finished stages and checkpoints are kept. Else does nothing."""
    with transaction.atomic():
        stages = lock_stages(Stage.objects.filter(run_stages__run=run))
        ended = Run.objects.filter(pk=run.pk).exclude(status__in=[*LIVE, Status.DONE])
        if ended.update(status=Status.WAITING, message="", finished=None):
            revive(stages)
            make_ready(stages)
            refresh_runs(Run.objects.filter(pk=run.pk))
            record(by, "resumed", run)
    run.refresh_from_db()


def request_dataset_import(  # noqa: PLR0913 - a form's fields
    *,
    owner: User,
    name: str,
    kind: str,
    task: str,
    config: Mapping[str, Any],
    upload_digest: str | None = None,
    source: str = "",
    licence: str = "",
) -> Dataset:
    """Register a dataset and ask a worker to import it. Raises UserError when the name is taken."""
    dataset = Dataset(owner=owner, name=name, kind=kind, task=task, source=source, licence=licence)
    digests = {"upload": upload_digest} if upload_digest else {}
    return _import_dataset(dataset, {**config, "kind": kind}, digests)


def derive_sft_dataset(*, dataset: Dataset, owner: User, name: str) -> Dataset:
    """Make an SFT dataset from the chosen (or rank-0) replies of an imported preference dataset."""
    if dataset.kind != Dataset.Kind.PREFERENCE or not dataset.digest:
        message = (
            f"only an imported preference dataset has chosen replies to make targets of; {dataset.name!r} is not one"
        )
        raise UserError(message)
    derived = Dataset(
        owner=owner,
        name=name,
        kind=Dataset.Kind.SFT,
        task=dataset.task,
        source=dataset.source,
        licence=dataset.licence,
        derived_from=dataset,
    )
    return _import_dataset(derived, {"kind": Dataset.Kind.SFT.value}, {"dataset": dataset.digest})


def _import_dataset(dataset: Dataset, config: dict[str, Any], digests: dict[str, str]) -> Dataset:
    with transaction.atomic():
        dataset.stage = _import_stage("import_dataset", config, digests)
        _refuse_taken("dataset", Dataset.objects.filter(name=dataset.name))
        dataset.save()
        record(dataset.owner, "derived" if dataset.derived_from else "imported", dataset, **_origin(dataset))
        if dataset.stage.status == Status.DONE:
            fill_dataset(dataset, dataset.stage)
    return dataset


def _origin(item: Dataset | RegisteredModel) -> dict[str, Any]:
    """Return for the audit log where something comes from."""
    source = getattr(item, "derived_from", None)
    return {"source": item.source, "licence": item.licence} | ({"derived_from": source.pk} if source else {})


def request_model_import(
    *,
    owner: User,
    name: str,
    config: Mapping[str, Any],
    upload_digest: str | None = None,
    source: str = "",
    licence: str = "",
) -> RegisteredModel:
    """Register a model and ask a worker to import it. Raises UserError when the name is taken."""
    model = RegisteredModel(owner=owner, name=name, source=source, licence=licence)
    digests = {"upload": upload_digest} if upload_digest else {}
    with transaction.atomic():
        model.stage = _import_stage("import_model", dict(config), digests)
        _refuse_taken("model", RegisteredModel.objects.filter(name=name))
        model.save()
        record(owner, "imported", model, **_origin(model))
        if model.stage.status == Status.DONE:
            fill_model(model, model.stage)
    return model


def _import_stage(kind: str, config: dict[str, Any], digests: dict[str, str]) -> Stage:
    fingerprint = fingerprint_of(kind, config, digests)
    return ensure_stages([PlannedStage(kind, kind, config, {}, digests, fingerprint)])[kind]


def _refuse_taken(what: str, others: QuerySet[Any]) -> None:
    """Raise UserError when there are others of the same name. Exact while the lock of `_ensure` is held."""
    other = others.first()
    if other is not None:
        message = f"a {what} is called {other.name!r} already; choose another name"
        raise UserError(message)
