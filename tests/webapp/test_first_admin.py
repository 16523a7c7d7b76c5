from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from webapp.accounts.models import Role, User

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


def said(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue().strip()


def test_the_first_start_makes_an_admin_who_comes_in_by_the_link(client: Client) -> None:
    path = said("first_admin")
    assert client.get(path).status_code == 200
    client.post(path, {"new_password1": PASSWORD, "new_password2": PASSWORD})
    admin = User.objects.get()
    assert (admin.username, admin.role, admin.is_staff) == ("admin", Role.ADMIN, True)
    assert client.session["_auth_user_id"] == str(admin.pk)


def test_every_start_prints_a_link_until_one_was_used(client: Client) -> None:
    first, second = said("first_admin"), said("first_admin")
    assert User.objects.count() == 1
    client.post(second, {"new_password1": PASSWORD, "new_password2": PASSWORD})
    assert said("first_admin") == ""
    assert client.get(first).status_code == 410


def test_a_name_that_is_taken_is_left_alone() -> None:
    User.objects.create_user("admin", password=PASSWORD, role=Role.RATER)
    said("first_admin")
    assert User.objects.get(role=Role.ADMIN).username == "admin2"


def test_an_admin_who_may_not_sign_in_does_not_count() -> None:
    User.objects.create_user("gone", password=PASSWORD, role=Role.ADMIN, is_active=False)
    assert said("first_admin")


def test_a_link_lets_somebody_new_or_forgetful_in(client: Client) -> None:
    assert client.get(said("one_time_link", "ada", "--role", "researcher")).status_code == 200
    ada = User.objects.get(username="ada")
    ada.set_password(PASSWORD)
    ada.save()
    assert client.get(said("one_time_link", "ada")).status_code == 200
    assert User.objects.get(username="ada").role == Role.RESEARCHER


def test_nobody_is_made_by_a_misspelt_name() -> None:
    with pytest.raises(CommandError, match="there is nobody called 'adda'"):
        said("one_time_link", "adda")
    User.objects.create_user("off", is_active=False)
    with pytest.raises(CommandError, match="switched off"):
        said("one_time_link", "off")
