"""Sessions: what is stored is read back, and what has expired is not."""

from datetime import timedelta
from importlib import import_module

import pytest
from django.conf import settings
from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.utils import timezone

pytestmark = pytest.mark.django_db
SessionStore = import_module(settings.SESSION_ENGINE).SessionStore


def stored() -> str:
    session = SessionStore()
    session["rater"] = 7
    session.save()
    return str(session.session_key)


def test_a_session_is_read_as_django_reads_it() -> None:
    key = stored()
    assert dict(SessionStore(key).items()) == dict(db.SessionStore(key).items()) == {"rater": 7}


@pytest.mark.parametrize("gone", ["expired", "unknown", "damaged"])
def test_a_session_that_is_none_is_empty(gone: str) -> None:
    key = stored()
    if gone == "expired":
        Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    elif gone == "damaged":
        Session.objects.update(session_data="nothing of ours")
    else:
        Session.objects.all().delete()
    assert dict(SessionStore(key).items()) == dict(db.SessionStore(key).items()) == {}


def test_an_expired_session_is_not_gone_on_with() -> None:
    """Its key may have been planted: what is stored next gets a new one."""
    key = stored()
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    session = SessionStore(key)
    session["rater"] = 8
    session.save()
    assert session.session_key not in {None, key}
