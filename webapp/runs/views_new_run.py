"""New run: presets, the form, the plan preview, launch. Works without scripts: everything is a form that is posted."""

import uuid
from collections.abc import Mapping
from typing import Any

from django.http import Http404, HttpResponse, HttpResponseBase, JsonResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import conditional_page, require_http_methods, require_safe

from rso_core.config import PRESETS, RunConfig, dump_run_config
from rso_core.endpoint_settings import allowed_models
from rso_core.errors import UserError
from webapp.accounts.access import SignedInRequest, researcher_required
from webapp.accounts.models import User
from webapp.runs import services
from webapp.runs.beta_help import beta_figure, gamma_figure, visible_scoring
from webapp.runs.exports import download
from webapp.runs.forms import Choices, References, RunForm, flatten, prefill, preset_data, read_recipe, schema_fields
from webapp.runs.length_profile import ProfileView, profile_view
from webapp.runs.models import Dataset, RegisteredModel, Run, Stage
from webapp.runs.preview import Preview, digest_of, make_preview
from webapp.runs.views_runs import artifacts_needed

_LARGEST_RECIPE = 256 * 1024
_NOT_READY = 409
_MOST_KEPT = 4096
PRESET_WORDS = {
    "RSO": "64 candidates a prompt, 8 kept by statistical rejection sampling, labelled by the reward model; sigmoid-norm loss.",
    "DPO": "The human pairs as they are; sigmoid-norm loss. No candidates are sampled.",
    "SLiC": "Random samples of the SFT policy, ranked in a tournament; hinge loss.",
    "SLiC direct": "The human pairs as they are; hinge loss.",
    "SLiC regularised": "Random samples of the SFT policy; hinge with a pull towards the SFT target, λ 5.",
    "RAFT": "The best of 64 candidates, found in a tournament, becomes the target of cross-entropy.",
    "ReST": "Candidates whose reward is above 0.7 of their prompt’s range become targets of cross-entropy.",
    "Coin labels": "As RSO, but a coin decides every pair: what is left is not due to the labels.",
    "Best of N": "Nothing is fitted: of 64 responses the one with the highest reward is evaluated.",
}


def references_of(user: User) -> References:
    """Return the imported datasets and models that this person may name in a run."""

    def datasets(kind: Dataset.Kind, what: str) -> Choices:
        rows = Dataset.objects.visible_to(user).filter(kind=kind).exclude(digest="").order_by("name")
        return [(name, f"{name} · {count:,} {what}") for name, count in rows.values_list("name", "rows_kept")]

    models = RegisteredModel.objects.visible_to(user).exclude(digest="").order_by("name")
    return References(
        preferences=datasets(Dataset.Kind.PREFERENCE, "pairs"),
        sft=datasets(Dataset.Kind.SFT, "targets"),
        models=[(name, f"{name} · {family}") for name, family in models.values_list("name", "family")],
        endpoints=[(name, f"{name} · {model}") for name, model in sorted(allowed_models().items())],
    )


@require_http_methods(["GET", "HEAD", "POST"])
@researcher_required
@artifacts_needed
def new_run(request: SignedInRequest) -> HttpResponseBase:
    """Show the form of a new run; preview and launch what is posted."""
    references = references_of(request.user)
    if request.method != "POST":
        return _first_page(request, references)
    action = request.POST.get("action", "preview")
    if "reset" in request.POST or action.startswith("preset-"):
        return _page(request, _changed_form(request.POST, action, references))
    if action == "load":
        return _loaded(request, references)
    form = RunForm(request.POST, references=references)
    if action == "yaml" and form.is_valid():
        return download(
            [dump_run_config(form.config)], name=f"{form.config.name}.yaml", content_type="application/yaml"
        )
    return _checked(request, form, launch=action == "launch")


def _page(request: SignedInRequest, form: RunForm, *, status: int = 200, **context: Any) -> HttpResponse:
    posted = request.POST
    context = {
        "form": form,
        "presets": [(name, PRESET_WORDS[name], name == form.preset) for name in PRESETS],
        "launch_token": posted.get("launch_token") or uuid.uuid4(),
        "cloned_from": posted.get("cloned_from", ""),
        **context,
    }
    return render(request, "runs/new_run.html", context, status=status)


def _first_page(request: SignedInRequest, references: References) -> HttpResponse:
    """Show the form with what the address asks for: a run to clone, a preset, single settings."""
    clone = _run_to_clone(request, request.GET.get("clone", ""))
    values = flatten(clone.config) if clone else _only_choices(references)
    preset = request.GET.get("preset", "")
    values |= preset_data(preset) if preset in PRESETS else {}
    values |= {path: request.GET[path] for path, _ in schema_fields() if path in request.GET}
    if clone:
        values["name"] = _copy_name(values["name"])
    form = RunForm(references=references, initial=prefill(values))
    return _page(request, form, cloned_from=clone.pk if clone else "", clone=clone)


def _only_choices(references: References) -> dict[str, str]:
    """Return the dataset or model of each kind where there is just one."""
    by_path = {"data.preferences": references.preferences, "data.sft": references.sft, "model.base": references.models}
    return {path: choices[0][0] for path, choices in by_path.items() if len(choices) == 1}


def _copy_name(name: str) -> str:
    return f"{name[:110]} (copy)"


def _run_to_clone(request: SignedInRequest, pk: str) -> Run | None:
    if not (pk.isascii() and pk.isdecimal()):
        return None
    return Run.objects.visible_to(request.user).filter(pk=int(pk[:18])).first()


def _changed_form(posted: QueryDict, action: str, references: References) -> RunForm:
    """Return the form as it was typed, with a preset written into it or one field back at the paper's value."""
    schema = dict(schema_fields())
    values = {path: posted[path] for path in schema if path in posted}
    values |= preset_data(action.removeprefix("preset-")) if action.removeprefix("preset-") in PRESETS else {}
    reset = posted.get("reset", "")
    if reset in schema:
        values.pop(reset, None)
    return RunForm(references=references, initial=values)


def _loaded(request: SignedInRequest, references: References) -> HttpResponse:
    """Show the form with the values of a recipe, each wrong one with its reason."""
    try:
        values = read_recipe(_recipe_text(request))
    except UserError as error:
        form = _changed_form(request.POST, "", references)
        return _page(request, form, recipe_error=str(error))
    form = RunForm(prefill(values), references=references)
    form.is_valid()  # puts the reasons beside the fields
    return _page(request, form, loaded=True)


def _recipe_text(request: SignedInRequest) -> str:
    upload = request.FILES.get("recipe")
    if upload is None:
        return request.POST.get("recipe_text", "")
    if upload.size is None or upload.size > _LARGEST_RECIPE:
        message = (
            f"a recipe has at most {_LARGEST_RECIPE // 1024} KB; {upload.name} is larger. Choose the YAML file of a run"
        )
        raise UserError(message)
    try:
        return str(upload.read().decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"{upload.name} is not UTF-8 text (byte {error.start}). Choose the YAML file of a run"
        raise UserError(message) from error


def _checked(request: SignedInRequest, form: RunForm, *, launch: bool) -> HttpResponse:
    """Preview what was typed, or launch it."""
    if not form.is_valid():
        return _page(request, form)
    try:
        seen = request.POST.get("previewed", "")
        if launch and seen in {"", digest_of(form.config)}:
            return redirect(_launch(request, form.config))
        preview = make_preview(form.config, request.user)
    except UserError as error:
        return _refused(request, form, error, launch=launch)
    return _page(request, form, **_preview_context(request, preview), changed=launch)


def _launch(request: SignedInRequest, config: RunConfig) -> Run:
    return services.launch_run(
        config=config,
        user=request.user,
        cloned_from=_run_to_clone(request, request.POST.get("cloned_from", "")),
        token=_token(request.POST),
    )


def _token(posted: Mapping[str, str]) -> uuid.UUID | None:
    try:
        return uuid.UUID(posted.get("launch_token", ""))
    except ValueError:
        return None


def _refused(request: SignedInRequest, form: RunForm, error: UserError, *, launch: bool) -> HttpResponse:
    """Say why nothing was launched; where only the length profile is missing, show the plan to wait at."""
    try:
        preview = make_preview(form.config, request.user) if launch else None
    except UserError:
        preview = None
    if preview is None:
        form.add_error(None, f"{str(error)[0].upper()}{str(error)[1:]}.")
        return _page(request, form)
    return _page(request, form, status=_NOT_READY, **_preview_context(request, preview), refused=str(error))


def _preview_context(request: SignedInRequest, preview: Preview) -> dict[str, Any]:
    return {"preview": preview, "profile": profile_view(preview.profile), "polled": False, "user": request.user}


@require_safe
@conditional_page
@researcher_required
@artifacts_needed
def profile(request: SignedInRequest, pk: int) -> HttpResponse:
    """Return the polled length profile of a plan."""
    return render(request, "runs/_profile.html", {"profile": _visible_profile(request, pk), "polled": True})


@require_safe
@researcher_required
@artifacts_needed
def beta_help(request: SignedInRequest, pk: int) -> JsonResponse:
    """Return a chart of what β would do with the rewards of a finished scoring stage."""
    return JsonResponse(beta_figure(*_rewards_asked_for(request, pk)))


@require_safe
@researcher_required
@artifacts_needed
def gamma_help(request: SignedInRequest, pk: int) -> JsonResponse:
    """Return a chart of what γ means for the losses, with the rewards of a finished scoring stage kept at β."""
    stage, kept = _rewards_asked_for(request, pk)
    try:
        return JsonResponse(gamma_figure(stage, kept, float(request.GET.get("beta", "0.5"))))
    except ValueError as error:  # no number, or a β at which there is no target to compare with
        raise Http404(str(error)) from error


def _rewards_asked_for(request: SignedInRequest, pk: int) -> tuple[Stage, int]:
    """Return a finished scoring stage and how many candidates are kept. Raises Http404."""
    stage, kept = visible_scoring(request.user, pk), request.GET.get("num_samples", "8")
    if stage is None or not (kept.isascii() and kept.isdecimal() and 1 < int(kept[:5]) <= _MOST_KEPT):
        message = "there are no such rewards, or they are of a run that you may not see."
        raise Http404(message)
    return stage, int(kept)


def _visible_profile(request: SignedInRequest, pk: int) -> ProfileView:
    stage = Stage.objects.filter(pk=pk, kind="length_profile").prefetch_related("shards").first()
    digests = {digest for name, digest in stage.input_digests.items() if name != "base"} if stage else set()
    seen = set(Dataset.objects.visible_to(request.user).filter(digest__in=digests).values_list("digest", flat=True))
    if stage is None or seen != digests:
        message = "there is no such length profile, or it is of data that you may not see."
        raise Http404(message)
    return profile_view(stage)
