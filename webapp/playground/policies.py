"""The models that somebody may ask: policies and SFT models of finished runs, and registered models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from rso_core.config import RunConfig
from rso_core.errors import UserError
from rso_core.vocabulary import Task
from webapp.accounts.models import User
from webapp.human_eval.models import System
from webapp.playground import limits
from webapp.runs.models import RegisteredModel, Run, RunStage, Status

_KEYS = {System.Kind.POLICY: "checkpoint_selection", System.Kind.SFT: "sft"}
_NAME_LENGTH = 54  # leaves room in a system's label for what follows


@dataclass(frozen=True)
class Policy:
    """A model that can be asked. `key` names it in the page, `label` is what people read."""

    key: str
    label: str
    kind: str
    digest: str
    run: Run | None
    stage_id: int | None
    limits: dict[str, Any]  # settings of rso_core.interactive.Asked that belong to the model


def policies_of(user: User) -> list[Policy]:
    """Return all models this person may ask, newest first: policies, then SFT models, then registered ones."""
    kept = [_of_run(item, kind) for kind in _KEYS for item in _finished(user, kind)]
    models = RegisteredModel.objects.visible_to(user).exclude(digest="").order_by("-pk")
    return kept + [_registered(model, "dialogue") for model in models]


def chosen(keys: Sequence[str], user: User, *, task: Task) -> list[Policy]:
    """Return the models with these keys, read anew. Raises UserError when one may not (or no longer) be asked."""
    found = [_by_key(key, user, task) for key in keys]
    if not 1 <= len(set(keys)) == len(keys) <= limits.MODELS:
        message = f"choose one to {limits.MODELS} different models; {len(keys)} were chosen"
        raise UserError(message)
    return found


def _finished(user: User, kind: str) -> QuerySet[RunStage]:
    runs = Run.objects.visible_to(user)
    stages = RunStage.objects.filter(run__in=runs, key=_KEYS[System.Kind(kind)], stage__status=Status.DONE)
    return stages.select_related("run", "stage").order_by("-run_id")


def _by_key(key: str, user: User, task: Task) -> Policy:
    kind, _, number = key.partition(":")
    if number.isdecimal() and len(number) < 18:  # noqa: PLR2004 - digits that PostgreSQL can hold
        if kind in _KEYS:
            item = _finished(user, kind).filter(run=int(number)).first()
            if item is not None:
                return _of_run(item, kind)
        model = RegisteredModel.objects.visible_to(user).exclude(digest="").filter(pk=int(number)).first()
        if kind == System.Kind.MODEL and model is not None:
            return _registered(model, task)
    message = f"there is no model {key!r} that you may ask; load the page again and choose another"
    raise UserError(message)


def _of_run(item: RunStage, kind: str) -> Policy:
    config = RunConfig.model_validate(item.run.config)
    what = "policy" if kind == System.Kind.POLICY else "SFT model"
    return Policy(
        key=f"{kind}:{item.run_id}",
        label=f"{item.run.name[:_NAME_LENGTH]} (run {item.run_id}, {what})",
        kind=kind,
        digest=item.stage.digest,
        run=item.run,
        stage_id=item.stage_id,
        limits={
            "task": config.task,
            "prompt_template": config.model.prompt_template,
            "dtype": config.model.dtype,
            "max_prompt_tokens": config.data.max_prompt_tokens,
        },
    )


def _registered(model: RegisteredModel, task: Task) -> Policy:
    return Policy(
        key=f"{System.Kind.MODEL}:{model.pk}",
        label=f"{model.name[:_NAME_LENGTH]} (model {model.pk})",
        kind=System.Kind.MODEL,
        digest=model.digest,
        run=None,
        stage_id=model.stage_id,
        limits={"task": task, "max_prompt_tokens": limits.REGISTERED_PROMPT_TOKENS},
    )
