"""Slow down guessing of passwords.

Every try is a row, written before the password is looked at, so that parallel guesses are counted too. In any
`WINDOW` one address may fail `TRIES_PER_NAME` times for one name and `TRIES_PER_ADDRESS` times in all; a
success forgets the tries for that name. Names alone are never locked, or anybody could lock anybody out.
The rows live in the database because several web processes share the work.
"""

from datetime import timedelta

from django.db.models import QuerySet
from django.utils import timezone

from rso_core.vocabulary import text_digest
from webapp.accounts.models import SignInTry

WINDOW = timedelta(minutes=15)
TRIES_PER_NAME = 5
TRIES_PER_ADDRESS = 50


def may_try(address: str, username: str) -> bool:
    """Record a try to sign in and return whether it may go on."""
    SignInTry.objects.filter(at__lt=timezone.now() - WINDOW).delete()
    mine = SignInTry.objects.create(address=address, name=_key(username))
    if _of(address, username).count() <= TRIES_PER_NAME and _from(address).count() <= TRIES_PER_ADDRESS:
        return True
    mine.delete()  # a refused try does not lengthen the wait
    return False


def forget_tries(address: str, username: str) -> None:
    """Forget the failures of somebody who has now signed in."""
    _of(address, username).delete()


def _from(address: str) -> QuerySet[SignInTry]:
    return SignInTry.objects.filter(address=address)


def _of(address: str, username: str) -> QuerySet[SignInTry]:
    return _from(address).filter(name=_key(username))


def _key(username: str) -> str:
    # A digest: what people type into the name field is now and then their password.
    return text_digest(username.casefold())
