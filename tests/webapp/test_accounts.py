import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user
from django.test import Client
from pytest_django import Settings

from webapp.accounts.first_sign_in import first_sign_in_path
from webapp.accounts.models import Role, SignInTry, User
from webapp.accounts.throttle import TRIES_PER_ADDRESS, TRIES_PER_NAME, WINDOW

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
NEW = {"new_password1": "an uncommon sentence 42", "new_password2": "an uncommon sentence 42"}


def signed_in_as(client: Client) -> str:
    return get_user(client).get_username()  # type: ignore[arg-type]


def sign_in(client: Client, username: str, password: str = PASSWORD, **extra: Any) -> Any:
    return client.post("/sign-in/", {"username": username, "password": password, **extra})


def test_somebody_signs_in_and_comes_back_to_where_they_wanted_to_be(client: Client, researcher: User) -> None:
    wanted = client.get("/datasets/?q=x")["Location"]
    assert wanted == "/sign-in/?next=/datasets/%3Fq%3Dx"
    assert 'value="/datasets/?q=x"' in client.get(wanted).content.decode()
    assert sign_in(client, "researcher", next="/datasets/?q=x")["Location"] == "/datasets/?q=x"
    assert signed_in_as(client) == "researcher"


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "/\\evil.example"]
)
def test_nobody_is_led_to_another_host_by_signing_in(client: Client, researcher: User, target: str) -> None:
    assert sign_in(client, "researcher", next=target)["Location"] == "/"


@pytest.mark.parametrize(
    ("username", "password"), [("researcher", "wrong"), ("nobody", PASSWORD), ("RESEARCHER", PASSWORD)]
)
def test_the_message_does_not_say_which_of_name_and_password_was_wrong(
    client: Client, researcher: User, username: str, password: str
) -> None:
    response = sign_in(client, username, password)
    assert "do not match an active account" in response.content.decode()
    assert signed_in_as(client) == ""


def test_an_account_that_is_switched_off_does_not_sign_in(client: Client, researcher: User) -> None:
    User.objects.update(is_active=False)
    sign_in(client, "researcher")
    assert signed_in_as(client) == ""


def test_guessing_is_slowed_down_for_the_address_and_the_name_only(
    client: Client, researcher: User, admin: User
) -> None:
    for _ in range(TRIES_PER_NAME):
        sign_in(client, "researcher", "wrong")
    assert "Too many failed tries" in sign_in(client, "researcher").content.decode()
    assert sign_in(Client(REMOTE_ADDR="10.0.0.9"), "researcher").status_code == 302
    assert sign_in(client, "admin").status_code == 302


def test_the_wait_ends(client: Client, researcher: User) -> None:
    for _ in range(TRIES_PER_NAME + 3):
        sign_in(client, "researcher", "wrong")
    for tried in SignInTry.objects.all():
        SignInTry.objects.filter(pk=tried.pk).update(at=tried.at - WINDOW - timedelta(seconds=1))
    assert sign_in(client, "researcher").status_code == 302
    assert not SignInTry.objects.exists()


def test_many_names_from_one_address_are_slowed_down_too(client: Client, researcher: User) -> None:
    SignInTry.objects.bulk_create(SignInTry(address="127.0.0.1", name=str(n)) for n in range(TRIES_PER_ADDRESS))
    assert "Too many failed tries" in sign_in(client, "researcher").content.decode()


def test_what_was_typed_as_a_name_is_not_stored(client: Client) -> None:
    sign_in(client, "my secret password", "x")
    assert "secret" not in SignInTry.objects.get().name


def newcomer() -> User:
    person = User(username="newcomer", role=Role.RATER)
    person.set_unusable_password()
    person.save()
    return person


def test_a_one_time_link_lets_somebody_in_once(client: Client) -> None:
    path = first_sign_in_path(newcomer())
    assert client.get(path).status_code == 200
    assert client.get(path)["Referrer-Policy"] == "no-referrer"
    assert client.post(path, NEW)["Location"] == "/"
    assert signed_in_as(client) == "newcomer"
    assert Client().get(path).status_code == 410
    assert Client().post(path, NEW).status_code == 410


def test_a_weak_or_mistyped_password_is_refused_beside_its_field(client: Client) -> None:
    path = first_sign_in_path(newcomer())
    for passwords in (("short", "short"), ("newcomer1", "newcomer1"), (NEW["new_password1"], "another one")):
        body = client.post(path, {"new_password1": passwords[0], "new_password2": passwords[1]}).content.decode()
        assert "errorlist" in body
    assert not User.objects.get().has_usable_password()


@pytest.mark.parametrize("token", ["x", "MQ.x-y", "..", "OTk5OTk.abc-def", "%00"])
def test_a_forged_link_is_told_to_be_used_up(client: Client, token: str) -> None:
    newcomer()
    response = client.get(f"/first-sign-in/{token}/")
    assert response.status_code == 410
    assert "This link no longer works" in response.content.decode()


def test_a_link_ends_after_three_days_and_for_an_account_that_is_off(client: Client, settings: Settings) -> None:
    person = newcomer()
    path = first_sign_in_path(person)
    three_days = settings.PASSWORD_RESET_TIMEOUT
    settings.PASSWORD_RESET_TIMEOUT = -1
    assert client.get(path).status_code == 410
    settings.PASSWORD_RESET_TIMEOUT = three_days
    assert client.get(path).status_code == 200
    User.objects.update(is_active=False)
    assert client.get(path).status_code == 410


def test_an_admin_adds_a_person_and_sees_the_link_once(client: Client, admin: User) -> None:
    client.force_login(admin)
    response = client.post("/people/new/", {"username": "newcomer", "role": "rater"}, follow=True)
    shown = re.search(r'id="one-time-link">(http[^<]+)<', response.content.decode())
    assert shown is not None
    person = User.objects.get(username="newcomer")
    assert person.role == "rater"
    assert not person.has_usable_password()
    assert "one-time-link" not in client.get(f"/people/{person.pk}/").content.decode()
    assert Client().get(shown[1].removeprefix("http://testserver")).status_code == 200


def test_the_last_admin_stays_one(client: Client, admin: User) -> None:
    client.force_login(admin)
    for values in ({"role": "rater", "is_active": "on"}, {"role": "admin"}):
        response = client.post(f"/people/{admin.pk}/", values)
        assert "the last active admin" in response.content.decode()
    admin.refresh_from_db()
    assert admin.is_admin
    assert admin.is_active


def test_an_admin_changes_the_role_of_somebody_else(client: Client, admin: User, rater: User) -> None:
    client.force_login(admin)
    client.post(f"/people/{rater.pk}/", {"role": "researcher", "is_active": "on"})
    rater.refresh_from_db()
    assert rater.may_research


def test_the_first_admin_made_a_rater_keeps_no_rights(client: Client, admin: User) -> None:
    first = User.objects.create_superuser("first", role=Role.ADMIN)
    client.force_login(admin)
    client.post(f"/people/{first.pk}/", {"role": "rater", "is_active": "on"})
    client.force_login(User.objects.get(pk=first.pk))
    assert [client.get(url, follow=True).status_code for url in ("/people/", "/runs/", "/admin/")] == [403, 403, 403]


def test_a_changed_password_signs_out_other_devices(client: Client, researcher: User) -> None:
    other = Client()
    for browser in (client, other):
        sign_in(browser, "researcher")
    wrong = client.post("/account/", {"old_password": "wrong", **NEW})
    assert "This is not your current password." in wrong.content.decode()
    client.post("/account/", {"old_password": PASSWORD, **NEW})
    assert signed_in_as(client) == "researcher"
    assert other.get("/account/").status_code == 302


def test_signing_out_takes_a_post(client: Client, researcher: User) -> None:
    sign_in(client, "researcher")
    assert client.get("/sign-out/").status_code == 405
    assert client.post("/sign-out/")["Location"] == "/sign-in/"
    assert signed_in_as(client) == ""


def test_pages_of_accounts_are_not_kept_by_browsers(client: Client, researcher: User) -> None:
    assert "no-store" in client.get("/sign-in/")["Cache-Control"]
    client.force_login(researcher)
    assert "no-store" in client.get("/account/")["Cache-Control"]
