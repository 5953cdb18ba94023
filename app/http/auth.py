"""Who is calling: the principal of a bearer key, and the dependency that yields it."""

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from app.db.session import make_session
from app.errors import ForbiddenError, UnauthorizedError
from app.services import keys
from app.settings import get_settings

ADMIN = "admin"
bearer = HTTPBearer(auto_error=False, description="A key made with POST /v1/keys")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


@dataclass(frozen=True)
class Principal:
    """A key and its tenant, the owner of rows."""

    key_id: str
    tenant_id: str
    scopes: frozenset[str]


RECENT_S = 1.0
RECENT_KEYS = 1000

_recent: dict[bytes, tuple[float, Principal]] = {}  # until when, and whose key; event loop only
ANYONE = Principal("key_none", keys.DEFAULT_TENANT, frozenset({ADMIN}))


async def caller(credentials: Credentials) -> Principal:
    """The principal of the request's key, whatever its scopes.

    A key is looked up once a second: a revoked one may work for one second more.

    Raises:
        UnauthorizedError: without a valid key.
    """
    if get_settings().auth_disabled:
        return ANYONE
    if credentials is None:
        raise UnauthorizedError("send the header Authorization: Bearer <key>")
    seen = hashlib.sha256(credentials.credentials.encode()).digest()  # no secret is kept
    until, principal = _recent.get(seen, (0.0, ANYONE))
    if time.monotonic() < until:
        return principal
    principal = await run_in_threadpool(_verify, credentials.credentials)
    if len(_recent) >= RECENT_KEYS:
        _recent.clear()
    _recent[seen] = (time.monotonic() + RECENT_S, principal)
    return principal


def _verify(token: str) -> Principal:
    """In a short session: no connection is held while the route waits for its thread."""
    with make_session(write=False) as session:
        key = keys.verify(session, token)
    keys.note_use(key)
    return Principal(key.id, key.tenant_id, frozenset(key.scopes))


Caller = Annotated[Principal, Depends(caller)]


def demand(principal: Principal, scope: str) -> None:
    """Refuse a principal without ``scope``; ``admin`` includes all.

    Raises:
        ForbiddenError: naming the scope.
    """
    if principal.scopes.isdisjoint({scope, ADMIN}):
        raise ForbiddenError(f"this key lacks the scope {scope}")


def require(scope: str) -> Callable[[Principal], Awaitable[Principal]]:
    """Dependency: the caller, if its key has ``scope``."""

    async def scoped(principal: Caller) -> Principal:
        demand(principal, scope)
        return principal

    return scoped
