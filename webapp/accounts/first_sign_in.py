"""One-time links: the way in for somebody who has no password yet, or has forgotten it.

A link carries a token that is derived from the account's state and the server's secret, so nothing secret is
stored. It ends with its use (setting the password changes the state), with a sign-in, or after
`PASSWORD_RESET_TIMEOUT`. Opening the link changes nothing, so a mail scanner that follows it does no harm.
"""

from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.urls import reverse
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_decode, urlsafe_base64_encode

from webapp.accounts.models import User


class _FirstSignInTokens(PasswordResetTokenGenerator):
    key_salt = "webapp.accounts.first_sign_in"


_tokens = _FirstSignInTokens()


def first_sign_in_path(user: User) -> str:
    """Return the path of a new one-time link for this person."""
    key = urlsafe_base64_encode(force_bytes(user.pk))
    return reverse("first_sign_in", args=[f"{key}.{_tokens.make_token(user)}"])


def redeem(token: str) -> User | None:
    """Return the active person that a link's token belongs to; None when it is used, expired or forged.

    The row is locked, so the caller must be in a transaction: of two people who use one link at the same
    moment, the second finds it used.
    """
    key, _, secret = token.partition(".")
    try:
        user = User.objects.select_for_update().get(pk=int(urlsafe_base64_decode(key)), is_active=True)
    except (ValueError, OverflowError, User.DoesNotExist):
        return None
    return user if _tokens.check_token(user, secret) else None
