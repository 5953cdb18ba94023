"""Logins of browsers: a key is exchanged once for a value that a cookie may hold.

The value names the key and its end and is signed; the secret of the key is not in it. A login is
worth no more than its key: revoked or expired, it ends with it.
"""

import hashlib
import hmac
import time

from sqlalchemy.orm import Session

from app.db.tables import ApiKey
from app.errors import UnauthorizedError
from app.services import keys
from app.services.pepper import pepper

LOGIN_S = 7 * 24 * 3600


def issue(session: Session, token: str) -> str:
    """A login of the key whose secret form is ``token``, valid for a week.

    Raises:
        UnauthorizedError: if there is no such key, or it is expired or revoked.
    """
    key = keys.verify(session, token.strip())
    named = f"{key.id}.{int(time.time()) + LOGIN_S}"
    return f"{named}.{_mac('login', named)}"


def verify(session: Session, login: str) -> ApiKey:
    """The key of a login.

    Raises:
        UnauthorizedError: if the login was not issued here or has ended, or its key has.
    """
    named, _, mac = login.rpartition(".")
    if not hmac.compare_digest(mac.encode(), _mac("login", named).encode()):
        raise UnauthorizedError("this login is not known; log in again")
    key_id, _, expires = named.partition(".")
    if int(expires) <= time.time():
        raise UnauthorizedError("this login has ended; log in again")
    if keys.invalid_of(session, [key_id]):
        raise UnauthorizedError("the key of this login is no longer valid; log in with another")
    return session.get_one(ApiKey, key_id)


def form_token(visit: str, login: str) -> str:
    """What the forms of a page carry against forgery.

    Args:
        visit: random text that the browser keeps as a cookie.
        login: the browser's login, empty where it has none.
    """
    return _mac("form", f"{visit}.{login}")


def _mac(purpose: str, text: str) -> str:
    return hmac.new(pepper(), f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()
