"""Who may see what: every address of the product is tried by everybody."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from rso_core.study_presets import mini_base, preset_study
from tests.webapp.graphs import DIAMOND, run_of
from tests.webapp.work import imported, json_lines, pairs
from webapp.accounts.models import User
from webapp.human_eval.models import Campaign
from webapp.runs.models import Dataset, RegisteredModel, Run, Stage
from webapp.studies.models import Study

pytestmark = pytest.mark.django_db

PUBLIC = {"login", "logout", "first_sign_in", "rate_invitation", "rate_panel"}
FOR_EVERYBODY = PUBLIC | {"account", "home"}  # home sends raters to what they may rate
FOR_ADMINS = {"people", "new_person", "person", "new_link", "audit_log", "audit_csv"}


def patterns(resolver: URLResolver) -> Iterator[URLPattern]:
    for entry in resolver.url_patterns:
        if isinstance(entry, URLResolver):
            if entry.app_name != "admin":
                yield from patterns(entry)
        else:
            yield entry


NAMES = {str(pattern.name): pattern for pattern in patterns(get_resolver())}
FOR_RATERS = {name for name in NAMES if name.split("_")[0] == "rate"} - PUBLIC


@pytest.fixture
def private(admin: User) -> dict[str, Any]:
    """One of each thing, the admin's and not shared, by the word that their addresses begin with."""
    run = run_of(DIAMOND, admin)
    dataset = imported(admin, "posts", json_lines(pairs(3)))
    Dataset.objects.update(shared=False)
    model = RegisteredModel.objects.create(owner=admin, name="tiny", shared=False)
    profile = Stage.objects.create(
        fingerprint="f" * 64,
        kind="length_profile",
        queue="cpu",
        input_digests={"preferences": dataset.digest, "base": "b" * 64},
    )
    campaign = Campaign.objects.create(
        owner=admin, name="secret campaign", title="Rate", task="dialogue", status="open"
    )
    return {
        "campaigns": campaign,
        "runs": run,
        "datasets": dataset,
        "models": model,
        "people": admin,
        "profile": profile,
        "studies": Study.objects.create(
            owner=admin,
            name="secret study",
            definition=preset_study("table_3", base=mini_base(), seeds=[0]).model_dump_json(),
        ),
    }


def address(name: str, private: dict[str, Any]) -> str:
    """Return the address of a page, filled in with the private thing it is about."""
    route = NAMES[name].pattern
    arguments: dict[str, Any] = {"token": "bogus", "ending": "csv", "prompt_id": "0" * 16, "pseudonym": "R-22222222"}
    arguments |= {"index": 0, "number": 1, "flag": 0, "invitation": 0}
    wanted = {parameter: arguments.get(parameter) for parameter in route.converters}
    if "pk" in wanted:
        path = reverse(name, kwargs={**wanted, "pk": 0})
        kind = "profile" if "/profile/" in path else path.split("/")[1]
        kind = "campaigns" if kind == "rate" else kind
        wanted["pk"] = private[kind].pk
    return reverse(name, kwargs=wanted)


def answers(client: Client, private: dict[str, Any], names: set[str]) -> dict[str, HttpResponse]:
    """Return what each page answers; pages that take no GET are posted to."""
    found = {}
    for name in sorted(names):
        url = address(name, private)
        response = client.get(url)
        found[name] = client.post(url) if response.status_code == 405 else response
    return found


def statuses(responses: dict[str, HttpResponse]) -> dict[str, int]:
    return {name: response.status_code for name, response in responses.items()}


def about_things(private: dict[str, Any]) -> set[str]:
    return {
        name for name in set(NAMES) - FOR_EVERYBODY - FOR_ADMINS - FOR_RATERS if "pk" in NAMES[name].pattern.converters
    }


def test_visitors_are_sent_to_the_sign_in_page_from_everywhere(client: Client, private: dict[str, Any]) -> None:
    found = answers(client, private, set(NAMES) - PUBLIC)
    assert {name: response.status_code for name, response in found.items() if response.status_code != 302} == {}
    astray = {name for name, response in found.items() if not response["Location"].startswith("/sign-in/?next=")}
    assert astray == set()
    assert Run.objects.get().status != "stopped"


def test_raters_see_rating_pages_their_account_and_nothing_else(
    client: Client, rater: User, private: dict[str, Any]
) -> None:
    client.force_login(rater)
    assert client.get("/")["Location"] == "/rate/"
    assert client.get("/account/").status_code == 200
    assert client.get("/rate/").status_code == 200
    found = statuses(answers(client, private, set(NAMES) - FOR_EVERYBODY - FOR_RATERS))
    assert {name: status for name, status in found.items() if status != 403} == {}


def test_researchers_do_not_learn_that_somebody_elses_private_things_exist(
    client: Client, researcher: User, private: dict[str, Any]
) -> None:
    client.force_login(researcher)
    found = statuses(answers(client, private, about_things(private)))
    assert len(found) > 15
    assert {name: status for name, status in found.items() if status != 404} == {}
    for page in ("/datasets/", "/models/", "/runs/", "/"):
        body = client.get(page).content.decode()
        assert "posts" not in body
        assert "tiny" not in body


def test_researchers_and_admins_who_know_the_systems_may_not_rate(
    client: Client, researcher: User, admin: User, private: dict[str, Any]
) -> None:
    for user in (researcher, admin):
        client.force_login(user)
        found = answers(client, private, FOR_RATERS)
        assert set(statuses(found).values()) == {403}
        assert "Rating pages are for raters" in found["rate"].content.decode()


def test_researchers_may_not_open_the_pages_of_admins(
    client: Client, researcher: User, private: dict[str, Any]
) -> None:
    client.force_login(researcher)
    found = answers(client, private, FOR_ADMINS)
    assert set(statuses(found).values()) == {403}
    assert "This page is for admins." in found["people"].content.decode()


def test_researchers_see_shared_things_and_may_not_change_them(
    client: Client, researcher: User, private: dict[str, Any]
) -> None:
    for kind in (Run, Dataset, RegisteredModel):
        kind._default_manager.update(shared=True)
    client.force_login(researcher)
    for name in ("dataset", "model", "run"):
        assert client.get(address(name, private)).status_code == 200, name
    changing = {"share_dataset", "retry_dataset", "delete_dataset", "share_model", "retry_model", "delete_model"}
    changing |= {"stop_run", "resume_run", "share_run", "delete_run", "stop_dataset_import", "stop_model_import"}
    found = statuses(answers(client, private, changing))
    assert {name: status for name, status in found.items() if status != 403} == {}


def test_admins_see_everything(client: Client, admin: User, private: dict[str, Any]) -> None:
    client.force_login(admin)
    for name in ("dataset", "model", "run", "person", "people", "datasets", "models", "runs", "home"):
        assert client.get(address(name, private)).status_code == 200, name


def test_djangos_admin_is_for_admins_and_adds_nothing(
    client: Client, admin: User, researcher: User, private: dict[str, Any]
) -> None:
    assert client.get("/admin/", follow=True).redirect_chain[-1][0] == "/sign-in/?next=/admin/"
    client.force_login(researcher)
    assert client.get("/admin/", follow=True).status_code == 403
    client.force_login(admin)
    for model in (
        "accounts/user",
        "runs/dataset",
        "runs/registeredmodel",
        "runs/run",
        "runs/stage",
        "runs/shard",
        "runs/worker",
    ):
        assert client.get(f"/admin/{model}/").status_code == 200, model
        assert client.get(f"/admin/{model}/add/").status_code == 403, model
    shown = client.get(f"/admin/accounts/user/{admin.pk}/change/").content.decode()
    assert "admin" in shown
    assert admin.password not in shown
    client.post(f"/admin/accounts/user/{admin.pk}/change/", {"role": "rater", "is_active": "on"})
    assert User.objects.get(pk=admin.pk).is_admin  # the last one; test_admin has what may be changed


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_page_that_is_not_there_answers_in_the_look_of_the_product(client: Client, method: str) -> None:
    response = getattr(client, method)("/nothing/")
    assert response.status_code == 404
    assert "There is nothing at this address" in response.content.decode()


def test_a_form_without_its_token_changes_nothing_and_says_why(admin: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin)
    response = strict.post("/people/new/", {"username": "eve", "role": "admin"})
    assert response.status_code == 403
    assert "This form is no longer valid" in response.content.decode()
    assert not User.objects.filter(username="eve").exists()


def test_an_error_of_the_server_shows_no_details(client: Client, admin: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        message = "a secret detail"
        raise RuntimeError(message)

    monkeypatch.setattr("webapp.runs.views_home.overview", fail)
    client.force_login(admin)
    client.raise_request_exception = False
    response = client.get("/")
    assert response.status_code == 500
    body = response.content.decode()
    assert "The server made a mistake" in body
    assert "secret" not in body


def test_a_host_that_is_not_ours_is_refused_in_the_look_of_the_product(client: Client) -> None:
    response = client.get("/sign-in/", headers={"Host": "evil.example"})
    assert response.status_code == 400
    assert "This request makes no sense to the server" in response.content.decode()


def test_what_a_shared_thing_was_made_from_is_named_only_to_whoever_may_see_it(
    client: Client, private: dict[str, Any], researcher: User, admin: User
) -> None:
    posts, run = private["datasets"], private["runs"]
    Run.objects.filter(pk=run.pk).update(name="secret run", shared=False)
    Dataset.objects.filter(pk=posts.pk).update(name="secret posts")
    derived = Dataset.objects.create(
        owner=admin, name="targets", kind="sft", task="dialogue", shared=True, stage=posts.stage, derived_from=posts
    )
    copy = run_of(DIAMOND, admin)
    Run.objects.filter(pk=copy.pk).update(shared=True, cloned_from=run)
    urls = ["/datasets/", derived.get_absolute_url(), f"{copy.get_absolute_url()}details/"]
    for user, sees in ((researcher, False), (admin, True)):
        client.force_login(user)
        for url in urls:
            response = client.get(url)
            assert response.status_code == 200
            assert ("secret " in response.content.decode()) is sees, (user, url)
