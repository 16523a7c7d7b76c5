"""Where the responses of a campaign come from: the dataset, a file, finished stages, or a stage that samples them.

What the run of a system has sampled already (`generation_policy`, `generation_sft`, or an earlier campaign's
`responses`) is taken from there; only prompts without a response are sampled, by one stage a system, as in its run.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping

from django.db import transaction

from rso_core.artifacts import ROWS, iterate_rows, write_rows
from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.plan import PlannedStage
from rso_core.planner import responses_stage
from rso_core.stages_evaluation import PROMPTS
from rso_core.vocabulary import canonical_json
from webapp.accounts.audit import record
from webapp.accounts.models import User
from webapp.human_eval.models import Item, Response, System
from webapp.human_eval.system_names import named_system
from webapp.runs.artifacts import store
from webapp.runs.models import LIVE, UNSUCCESSFUL, Run, Stage, Status
from webapp.runs.services import ensure_stages
from webapp.runs.text import storable
from webapp.runs.transitions import end_stage, lock_stages

# Which stages of a run hold the model of a system, and what it answered already.
_MODEL = {System.Kind.POLICY: "checkpoint_selection", System.Kind.SFT: "sft"}
_ANSWERED = {System.Kind.POLICY: "generation_policy", System.Kind.SFT: "generation_sft"}

Found = Mapping[str, tuple[str, bool]]  # prompt id → (response, whether it was cut at the token limit)


def model_digest(run: Run, kind: str) -> str:
    """Return the artifact of a run's policy or SFT model. Raises UserError when the run has not made it."""
    key = _MODEL[System.Kind(kind)]
    digest = run.run_stages.filter(key=key).values_list("stage__digest", flat=True).first()
    if not digest:
        message = f"the run {run.name!r} has no {System.Kind(kind).label.removesuffix(' of a run')} yet; choose a finished run"
        raise UserError(message)
    return digest


def unanswered(system: System) -> dict[str, Item]:
    """Return the counted items that have no response of a system, by prompt id."""
    items = Item.objects.filter(campaign=system.campaign, kind=Item.Kind.MAIN).exclude(responses__system=system)
    return {item.prompt_id: item for item in items.order_by("index")}


def fill(system: System, found: Found) -> int:
    """Store the responses of a system to those items that have none yet; return how many."""
    wanted = unanswered(system)
    rows = (_response(system, item, *found[prompt]) for prompt, item in wanted.items() if prompt in found)
    made = Response.objects.bulk_create(rows, batch_size=500)
    return len(made)


def _response(system: System, item: Item, text: str, truncated: bool) -> Response:  # noqa: FBT001 - a column
    text = storable(text)
    named = named_system(text, item.prompt)
    return Response(item=item, index=system.index, system=system, text=text, truncated=truncated, named=named)


def request_responses(system: System) -> Stage | None:
    """Fill in what a run has answered, and ask a worker for the rest; return the stage, None when nothing is missing.

    Asking twice is harmless: equal work has one fingerprint, and a failed stage is tried again.
    """
    run = system.run
    if run is None:
        return None
    with transaction.atomic():
        for stage in _answering_stages(system, run):
            fill(system, _answers(stage, unanswered(system)))
        missing = unanswered(system)
        if not missing:
            return None
        system.stage = _ensure(system, run, missing.values())
        system.save(update_fields=["stage"])
        if system.stage.status == Status.DONE:
            fill(system, _answers(system.stage, missing))
    return system.stage


def _ensure(system: System, run: Run, items: Iterable[Item]) -> Stage:
    prompts = list(items)
    config = RunConfig.model_validate(run.config)
    digest = _commit_prompts(prompts)
    policy = model_digest(run, system.kind)
    planned = responses_stage(config, policy=policy, prompts=digest, count=len(prompts))
    return ensure_stages([planned])[planned.key]


def _commit_prompts(items: Iterable[Item]) -> str:
    staging = store().staging()
    try:
        rows = (
            {"prompt_id": item.prompt_id, "prompt": item.prompt, "messages": canonical_json(item.messages)}
            for item in items
        )
        write_rows(staging / ROWS, rows, PROMPTS)
        return store().commit(staging, kind="prompts")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _answering_stages(system: System, run: Run) -> Iterator[Stage]:
    """Yield finished stages in which the system's model answered prompts, sampled as in its run."""
    key = _ANSWERED[System.Kind(system.kind)]
    own = run.run_stages.filter(key=key, stage__status=Status.DONE).select_related("stage")
    yield from (item.stage for item in own)
    wanted = responses_stage(RunConfig.model_validate(run.config), policy="", prompts="", count=0)
    yield from Stage.objects.filter(
        kind="responses",
        status=Status.DONE,
        config=wanted.config,
        input_digests__policy=model_digest(run, system.kind),
    ).order_by("pk")


def _answers(stage: Stage, wanted: Mapping[str, Item]) -> dict[str, tuple[str, bool]]:
    """Return the responses of a stage to the wanted prompts; none when its artifact is lost, as it can be made again."""
    files = store().files(stage.digest) if store().exists(stage.digest) else []
    if not all(path.exists() for path in files):
        return {}
    rows = iterate_rows(files, ["prompt_id", "response", "truncated"])
    return {row["prompt_id"]: (row["response"], bool(row["truncated"])) for row in rows if row["prompt_id"] in wanted}


def take_finished(stage: Stage) -> None:
    """Give a finished stage's responses to the systems that wait for them, in the transaction that finishes it."""
    for system in System.objects.filter(stage=stage).select_related("campaign"):
        fill(system, _answers(stage, unanswered(system)))


def retry_responses(system: System, *, by: User) -> None:
    """Sample again what failed or was stopped; does nothing to a sampling that goes on or is done."""
    with transaction.atomic():
        stage = system.stage
        if stage is None:
            request_responses(system)
        elif stage.status in UNSUCCESSFUL:
            planned = PlannedStage(stage.kind, stage.kind, stage.config, {}, stage.input_digests, stage.fingerprint)
            ensure_stages([planned])
        record(by, "retried the sampling of", system.campaign, system=system.label)


def stop_responses(system: System, *, by: User) -> bool:
    """Ask no longer for a system's missing responses; return False when none were asked for.

    The sampling stops unless another system waits for it. Responses that are there stay, and the rest can be asked for again.
    """
    with transaction.atomic():
        asked = lock_samplings([system])
        if not System.objects.filter(pk=system.pk, stage__in=asked).update(stage=None):
            return False
        stop_unasked(asked)
        record(by, "stopped the sampling of", system.campaign, system=system.label)
    return True


def lock_samplings(systems: Iterable[System]) -> list[Stage]:
    """Lock what these systems wait for and return it; before their rows, which a worker that finishes locks last."""
    asked = [system.stage_id for system in systems if system.stage_id is not None]
    return lock_stages(Stage.objects.filter(pk__in=asked, kind="responses", status__in=LIVE))


def stop_unasked(stages: Iterable[Stage]) -> None:
    """Stop those locked samplings that no system waits for any more."""
    for stage in stages:
        if not System.objects.filter(stage=stage).exists():
            end_stage(stage, Status.STOPPED)
