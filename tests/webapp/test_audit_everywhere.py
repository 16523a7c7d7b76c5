"""Whatever changes something writes into the audit log: the addresses of the product are walked, none may be forgotten.

A new address that takes a POST fails here until `WRITES` says how it is used and what it writes, or `WRITES_NOTHING`
says why it need not. A new download is found by its header.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from rso_core.study_presets import preset_study
from tests.webapp.human_eval.comparisons import compared, finished_run
from tests.webapp.human_eval.made_campaigns import answer, made_campaign, made_rater
from tests.webapp.human_eval.typed import PROLIFIC, known, typed
from tests.webapp.made_runs import config_of, finish_run, imported, launched, signed_in
from webapp.accounts.first_sign_in import first_sign_in_path
from webapp.accounts.models import AuditEntry, User
from webapp.human_eval import exclusions
from webapp.human_eval.forms_campaigns import template_values
from webapp.human_eval.models import Campaign, Flag, Invitation, Item, Rater, Response
from webapp.runs.forms import form_data
from webapp.runs.models import Dataset, RegisteredModel, Run, Stage, Status
from webapp.studies import services as studies

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
NEW = {"new_password1": "an uncommon sentence 42", "new_password2": "an uncommon sentence 42"}


def patterns(resolver: URLResolver) -> dict[str, URLPattern]:
    found: dict[str, URLPattern] = {}
    for entry in resolver.url_patterns:
        if isinstance(entry, URLPattern):
            found[str(entry.name)] = entry
        elif entry.app_name != "admin":  # its few changes are tested in test_admin
            found |= patterns(entry)
    return found


NAMES = patterns(get_resolver())


@dataclass
class World:
    """Something of everything, and a browser in which its owner, who is an admin, is signed in."""

    owner: User
    browser: Client
    run: Run
    campaign: Campaign
    rater: Rater
    item: Item

    def page(self, name: str, pk: int | None = None, **values: Any) -> str:
        """Return the address of a page that is about `pk`, or about nothing."""
        return reverse(name, kwargs={**({"pk": pk} if pk is not None else {}), **values})

    def post(self, name: str, pk: int | None = None, /, address: dict[str, Any] | None = None, **values: Any) -> Any:
        """Post to the page of a name."""
        return self.browser.post(self.page(name, pk, **(address or {})), values)


@pytest.fixture
def world(admin: User, made_store: None) -> World:
    imported(admin)
    run = launched(admin)
    campaign = made_campaign(admin, items=3)
    rater = made_rater(campaign)
    answer(campaign, rater)
    item = Item.objects.filter(campaign=campaign).first()
    assert item is not None
    return World(admin, signed_in(admin), run, campaign, rater, item)


def failed_import(kind: type[Dataset] | type[RegisteredModel], owner: User) -> int:
    stage = Stage.objects.create(fingerprint="e" * 64, kind="import_dataset", queue="cpu", status=Status.FAILED)
    extra = {"kind": "sft", "task": "dialogue"} if kind is Dataset else {}
    return int(kind._default_manager.create(owner=owner, name="failed", stage=stage, **extra).pk)


def going_import(kind: type[Dataset] | type[RegisteredModel], owner: User) -> int:
    item = failed_import(kind, owner)
    Stage.objects.filter(fingerprint="e" * 64).update(status=Status.READY)
    return item


def dataset_of(name: str) -> int:
    return Dataset.objects.get(name=name).pk


def model_of() -> int:
    return RegisteredModel.objects.get(name="tiny").pk


def sign_in(world: World) -> None:
    world.browser.logout()
    world.post("login", username="admin", password=PASSWORD)


def choose_password(world: World) -> None:
    world.browser.logout()
    guest = User.objects.create_user("guest")
    world.browser.post(first_sign_in_path(guest), NEW)


def launch(world: World) -> None:
    world.browser.post("/runs/new/", form_data(config_of("again", loss="hinge")) | {"action": "launch"})


def stop(world: World) -> None:
    Run.objects.filter(pk=world.run.pk).update(status=Status.RUNNING, finished=None)
    world.post("stop_run", world.run.pk)


def resume(world: World) -> None:
    Run.objects.filter(pk=world.run.pk).update(status=Status.STOPPED)
    world.post("resume_run", world.run.pk)


def guest_of(world: World) -> int:
    return User.objects.create_user("guest", role="rater").pk


def excluded(world: World) -> dict[str, Any]:
    exclusions.exclude(world.campaign, world.rater, by=None, reason="too fast")
    return {"pseudonym": world.rater.pseudonym}


def flagged(world: World) -> dict[str, Any]:
    return {"flag": Flag.objects.create(item=world.item, rater=world.rater, reason="other").pk}


def system_of_file(world: World) -> dict[str, Any]:
    """Make a draft of which one system has no responses yet; return the values of its upload."""
    prompts = world.campaign.items.values_list("prompt_id", flat=True)
    lines = "\n".join(json.dumps({"prompt_id": prompt_id, "response": "A response."}) for prompt_id in prompts)
    return {"file": SimpleUploadedFile("theirs.jsonl", lines.encode())}


def draft(world: World) -> int:
    return made_campaign(world.owner, items=3, status="draft").pk


def missing(world: World) -> int:
    pk = draft(world)
    Response.objects.filter(item__campaign=pk, item__index=1, index=2).delete()
    return pk


def sampled(world: World) -> int:
    """Return a draft of which a worker is to sample responses."""
    return compared(world.owner, finished_run(world.owner, answered=[])).campaign.pk


def settings_of(world: World) -> dict[str, Any]:
    labels = {f"label_{index}": f"System {index}" for index in range(3)}
    return template_values("summarization") | labels | {"name": "Renamed", "max_items_per_rater": 5}


def invitation_of(world: World) -> dict[str, Any]:
    world.post("invite", world.campaign.pk, count=1, notes="Ada", days=3)
    return {"invitation": Invitation.objects.get().pk}


def known_task_of(world: World) -> dict[str, Any]:
    world.post("campaign_known", world.campaign.pk, **known())
    return {"index": world.campaign.items.get(kind="check").index}


def study_of(world: World, *, paused: bool = False) -> int:
    """Return a study that is being run, or is paused."""
    plan = preset_study("table_3", base=config_of(), seeds=[0])
    study = studies.start_study(plan=plan, user=world.owner)
    if paused:
        studies.pause_study(study=study, by=world.owner)
    return study.pk


STUDY = {"preset": "table_3", "base": "mini_tldr", "seeds": "0", "action": "start"}
HUB = {"origin": "hub", "hub": "owner/name", "layout": "auto"}
LIMITS = {"max_prompt_tokens": "9", "max_response_tokens": "9"}

# name of the address → (what is written, how it comes about).
WRITES: dict[str, tuple[str, Callable[[World], object]]] = {
    "login": ("signed in", sign_in),
    "logout": ("signed out", lambda w: w.post("logout")),
    "first_sign_in": ("chose a password", choose_password),
    "account": ("changed the password", lambda w: w.post("account", old_password=PASSWORD, **NEW)),
    "new_person": ("added", lambda w: w.post("new_person", username="eve", role="rater")),
    "person": ("changed", lambda w: w.post("person", guest_of(w), role="researcher", is_active="on")),
    "new_link": ("made a one-time link for", lambda w: w.post("new_link", guest_of(w))),
    "new_run": ("launched", launch),
    "stop_run": ("stopped", stop),
    "resume_run": ("resumed", resume),
    "delete_run": ("deleted", lambda w: (w.post("stop_run", w.run.pk), w.post("delete_run", w.run.pk))),
    "share_run": ("shared", lambda w: w.post("share_run", w.run.pk, shared="on")),
    "new_dataset": (
        "imported",
        lambda w: w.post("new_dataset", name="posts", kind="preference", task="dialogue", **HUB),
    ),
    "derive_dataset": ("derived", lambda w: w.post("derive_dataset", dataset_of("preferences"), name="chosen")),
    "measure_lengths": (
        "measured the lengths of",
        lambda w: w.post("measure_lengths", dataset_of("targets"), model=model_of(), **LIMITS),
    ),
    "share_dataset": ("stopped sharing", lambda w: w.post("share_dataset", dataset_of("targets"))),
    "retry_dataset": ("retried", lambda w: w.post("retry_dataset", failed_import(Dataset, w.owner))),
    "delete_dataset": ("deleted", lambda w: w.post("delete_dataset", failed_import(Dataset, w.owner))),
    "stop_dataset_import": (
        "stopped the import of", lambda w: w.post("stop_dataset_import", going_import(Dataset, w.owner)),
    ),
    "new_model": ("imported", lambda w: w.post("new_model", name="small", **HUB)),
    "share_model": ("shared", lambda w: w.post("share_model", model_of(), shared="on")),
    "retry_model": ("retried", lambda w: w.post("retry_model", failed_import(RegisteredModel, w.owner))),
    "delete_model": ("deleted", lambda w: w.post("delete_model", failed_import(RegisteredModel, w.owner))),
    "stop_model_import": (
        "stopped the import of", lambda w: w.post("stop_model_import", going_import(RegisteredModel, w.owner)),
    ),
    "new_study": ("started", lambda w: w.post("new_study", **STUDY)),
    "pause_study": ("paused", lambda w: w.post("pause_study", study_of(w))),
    "resume_study": ("resumed", lambda w: w.post("resume_study", study_of(w, paused=True))),
    "extend_study": ("extended", lambda w: w.post("extend_study", study_of(w), seeds="5")),
    "share_study": ("shared", lambda w: w.post("share_study", study_of(w), shared="1")),
    "remove_study": ("removed", lambda w: w.post("remove_study", study_of(w))),
    "campaign_preferences": ("exported", lambda w: w.post("campaign_preferences", w.campaign.pk, name="votes", by="votes")),
    "settle_flag": ("settled", lambda w: w.post("settle_flag", w.campaign.pk, flagged(w))),
    "exclude_rater": (
        "excluded",
        lambda w: w.post("exclude_rater", w.campaign.pk, {"pseudonym": w.rater.pseudonym}, reason="too fast"),
    ),
    "lift_exclusion": ("lifted", lambda w: w.post("lift_exclusion", w.campaign.pk, excluded(w))),
    "new_campaign": ("created", lambda w: w.browser.post("/campaigns/new/", typed())),
    "move_campaign": ("paused", lambda w: w.post("move_campaign", w.campaign.pk, to="paused")),
    "share_campaign": ("shared", lambda w: w.post("share_campaign", w.campaign.pk, shared="1")),
    "remove_campaign": ("removed", lambda w: w.post("remove_campaign", draft(w))),
    "campaign_settings": ("changed", lambda w: w.post("campaign_settings", w.campaign.pk, **settings_of(w))),
    "leave_out": ("left out", lambda w: w.post("leave_out", missing(w), show="missing", item="1")),
    "campaign_upload": (
        "uploaded responses to", lambda w: w.post("campaign_upload", missing(w), {"index": 2}, **system_of_file(w)),
    ),
    "campaign_retry": ("retried the sampling of", lambda w: w.post("campaign_retry", w.campaign.pk, {"index": 0})),
    "campaign_stop": ("stopped the sampling of", lambda w: w.post("campaign_stop", sampled(w), {"index": 0})),
    "campaign_contents": (
        "changed systems and prompts of", lambda w: w.post("campaign_contents", draft(w), **typed()),
    ),
    "invite": ("invited", lambda w: w.post("invite", w.campaign.pk, count=1, notes="Ada", days=3)),
    "revoke_invitation": (
        "revoked an invitation", lambda w: w.post("revoke_invitation", w.campaign.pk, invitation_of(w)),
    ),
    "save_panel": ("made a panel link", lambda w: w.post("save_panel", w.campaign.pk, **PROLIFIC)),
    "renew_panel": (
        "renewed the panel link",
        lambda w: (w.post("save_panel", w.campaign.pk, **PROLIFIC), w.post("renew_panel", w.campaign.pk)),
    ),
    "campaign_known": ("added a check task to", lambda w: w.post("campaign_known", w.campaign.pk, **known())),
    "remove_known": (
        "removed a check task from", lambda w: w.post("remove_known", w.campaign.pk, known_task_of(w)),
    ),
}  # fmt: skip

_RATING = "what raters do is kept as rows of its own: slots, answers and their versions, skips, flags, participations"
WRITES_NOTHING: dict[str, str] = {name: _RATING for name in NAMES if name.startswith("rate_") or name == "rate"}
WRITES_NOTHING["playground"] = "Gradio's app answers in its place and writes what is asked (tests of the playground)"


def takes_a_post(name: str, browser: Client) -> bool:
    """Return whether an address takes a POST; what that does is undone."""
    values: dict[str, Any] = {"token": "x", "ending": "csv", "prompt_id": "0" * 16, "pseudonym": "R-0"}
    wanted = {key: values.get(key, 0) for key in NAMES[name].pattern.converters}
    with transaction.atomic():
        status = browser.post(reverse(name, kwargs=wanted)).status_code
        transaction.set_rollback(True)
    return status != 405


def test_no_address_that_changes_something_is_forgotten(admin: User) -> None:
    posts = {name for name in NAMES if takes_a_post(name, signed_in(admin))}
    assert posts - set(WRITES) - set(WRITES_NOTHING) == set(), "say what these write into the audit log"
    assert set(WRITES) - posts == set(), "these are gone"


@pytest.mark.parametrize("name", WRITES)
def test_what_changes_something_is_written_down(name: str, world: World) -> None:
    action, do = WRITES[name]
    known = set(AuditEntry.objects.values_list("pk", flat=True))
    do(world)
    new = AuditEntry.objects.exclude(pk__in=known)
    assert action in set(new.values_list("action", flat=True))
    assert new.filter(action=action, actor=None).exists() is False


def test_every_download_is_written_down(world: World) -> None:
    finish_run(world.run)
    things = {
        "runs": world.run.pk,
        "datasets": dataset_of("targets"),
        "models": model_of(),
        "campaigns": world.campaign.pk,
        "studies": study_of(world),
    }
    files = []
    for name, pattern in NAMES.items():
        values: dict[str, Any] = {"ending": "csv", "token": "x", "index": 0, "prompt_id": "0" * 16, "pseudonym": "x"}
        wanted = {key: values.get(key, 1) for key in pattern.pattern.converters}
        if "pk" in wanted:
            wanted["pk"] = things.get(reverse(name, kwargs=wanted).split("/")[1], 1)
        known = AuditEntry.objects.count()
        response = world.browser.get(reverse(name, kwargs=wanted))
        if response.headers.get("Content-Disposition", "").startswith("attachment"):
            files.append(name)
            assert AuditEntry.objects.count() == known + 1, name
            entry = AuditEntry.objects.order_by("pk").last()
            assert entry is not None
            assert (entry.action, entry.actor) in {("downloaded", world.owner), ("exported", world.owner)}, name
    assert len(files) >= 8
