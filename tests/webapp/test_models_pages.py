from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from tests.webapp.work import work_off
from webapp.accounts.models import User
from webapp.runs import services
from webapp.runs.models import RegisteredModel

pytestmark = pytest.mark.django_db

NEW = "/models/new/"


@pytest.fixture
def page(client: Client, researcher: User) -> Client:
    """A browser in which the researcher has signed in."""
    client.force_login(researcher)
    return client


def text(response: HttpResponse) -> str:
    return response.content.decode()


def gguf(content: bytes = b"GGUF and more") -> SimpleUploadedFile:
    return SimpleUploadedFile("tiny.gguf", content)


def errors_of(response: HttpResponse) -> dict[str, list[str]]:
    return {name: list(errors) for name, errors in response.context["form"].errors.items()}


def test_the_built_in_base_model_is_imported_and_described(page: Client, researcher: User) -> None:
    response = page.post(NEW, {"name": "mini base", "origin": "mini_tldr", "family": "seq2seq", "seed": "3"})
    model = RegisteredModel.objects.get()
    assert response["Location"] == model.get_absolute_url()
    assert model.stage is not None
    assert model.stage.config == {"mini_tldr": {"family": "seq2seq", "seed": 3}}
    assert "Family known after the import" in text(page.get(model.get_absolute_url()))

    work_off(model.stage)
    model.refresh_from_db()
    assert (model.family, model.source) == ("seq2seq", "built-in task mini_tldr")
    body = text(page.get(model.get_absolute_url()))
    assert "Encoder–decoder" in body
    assert model.digest[:16] in body


def test_the_pretrained_weights_of_the_built_in_task_can_be_asked_for(page: Client) -> None:
    page.post(NEW, {"name": "reader", "origin": "mini_tldr", "family": "causal", "weights": "pretrained"})
    stage = RegisteredModel.objects.get().stage
    assert stage is not None
    assert stage.config == {"mini_tldr": {"family": "causal", "seed": 0, "weights": "pretrained"}}


def test_a_folder_of_the_server_is_offered_and_links_that_lead_elsewhere_are_not(
    page: Client, settings: Settings, tmp_path: Path
) -> None:
    for folder in ("good", "nested/deep"):
        (tmp_path / "models" / folder).mkdir(parents=True)
        (tmp_path / "models" / folder / "config.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    (tmp_path / "models" / "linked").symlink_to(tmp_path / "elsewhere")
    offered = [value for value, _ in page.get(NEW).context["form"].fields["folder"].choices]
    assert offered == ["", "good", "nested/deep"]

    assert "folder" in errors_of(page.post(NEW, {"name": "m", "origin": "folder", "folder": "../elsewhere"}))
    page.post(NEW, {"name": "m", "origin": "folder", "folder": "good"})
    stage = RegisteredModel.objects.get().stage
    assert stage is not None
    assert stage.config == {"path": str((tmp_path / "models" / "good").resolve())}


def test_a_gguf_file_is_uploaded(page: Client) -> None:
    page.post(NEW, {"name": "m", "origin": "upload", "file": gguf()})
    stage = RegisteredModel.objects.get().stage
    assert stage is not None
    assert list(stage.input_digests) == ["upload"]


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"name": "", "origin": "mini_tldr"}, "name", "required"),
        ({"origin": "upload"}, "file", "Choose a .gguf file"),
        ({"origin": "upload", "file": gguf(b"PK zip")}, "file", "does not begin like a GGUF file"),
        ({"origin": "folder"}, "folder", "Choose a folder"),
        ({"origin": "hub"}, "hub", "Write the hub id"),
        ({"origin": "hub", "hub": "https://elsewhere.example/x"}, "hub", "owner/name"),
        ({"origin": "elsewhere"}, "origin", "valid choice"),
        ({"origin": "mini_tldr", "family": "diffusion"}, "family", "valid choice"),
    ],
)
def test_a_mistake_is_told_beside_its_field(page: Client, values: dict[str, Any], field: str, message: str) -> None:
    errors = errors_of(page.post(NEW, {"name": "m"} | values))
    assert list(errors) == [field]
    assert message in errors[field][0]
    assert not RegisteredModel.objects.exists()


def test_a_hub_model_is_asked_for_at_a_revision(page: Client) -> None:
    page.post(NEW, {"name": "t5", "origin": "hub", "hub": "google-t5/t5-small", "licence": "Apache-2.0"})
    model = RegisteredModel.objects.get()
    assert model.stage is not None
    assert model.stage.config == {"hub": "google-t5/t5-small", "revision": "main"}
    assert (model.source, model.licence) == ("google-t5/t5-small", "Apache-2.0")


def test_a_failed_import_says_why_and_can_be_tried_again_or_removed(
    page: Client, researcher: User, tmp_path: Path
) -> None:
    model = services.request_model_import(
        owner=researcher, name="m", config={"path": str(tmp_path / "models" / "gone")}
    )
    work_off(model.stage)
    url = model.get_absolute_url()
    body = text(page.get(url))
    assert "Try again" in body
    assert model.__class__.objects.get().stage.message in body  # type: ignore[union-attr]

    page.post(f"{url}retry/")
    assert RegisteredModel.objects.get().stage.status == "ready"  # type: ignore[union-attr]
    work_off(RegisteredModel.objects.get().stage)
    page.post(f"{url}delete/")
    assert not RegisteredModel.objects.exists()


def test_the_list_costs_the_same_number_of_queries_however_long(
    page: Client, researcher: User, django_assert_max_num_queries: Any
) -> None:
    stage = services.request_model_import(owner=researcher, name="first", config={"hub": "a/b"}).stage
    for index in range(12):
        RegisteredModel.objects.create(
            owner=researcher, name=f"copy {index}", stage=stage, summary={"parameters": index}
        )
    with django_assert_max_num_queries(5):
        assert len(page.get("/models/?sort=-parameters").context["page"]) == 13


def test_models_are_searched_and_an_empty_list_says_what_to_do(page: Client, researcher: User) -> None:
    assert "No model yet" in text(page.get("/models/"))
    RegisteredModel.objects.create(owner=researcher, name="alpha", licence="MIT")
    assert [model.name for model in page.get("/models/?q=mit").context["page"]] == ["alpha"]
    assert "No model matches" in text(page.get("/models/?q=gone"))
