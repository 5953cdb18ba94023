"""Who is calling: the principal of a bearer key, and the dependency that yields it."""

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from app.db.session import make_session
from app.db.tables import Tenant
from app.errors import ForbiddenError, UnauthorizedError
from app.http import rates
from app.services import keys, quotas
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
    quotas: Mapping[str, int | None] = field(default_factory=dict)


RECENT_S = 1.0
RECENT_KEYS = 1000

_recent: dict[bytes, tuple[float, Principal]] = {}  # until when, and whose key; event loop only
ANYONE = Principal("key_none", keys.DEFAULT_TENANT, frozenset({ADMIN}))


async def caller(request: Request, credentials: Credentials) -> Principal:
    """The principal of the request's key, whatever its scopes, while it is within its limits.

    Raises:
        UnauthorizedError: without a valid key.
        TooManyRequestsError: if it makes more requests than it may.
    """
    principal = await _principal(credentials)
    await rates.admit(request, principal.key_id, principal.quotas)
    return principal


async def _principal(credentials: HTTPAuthorizationCredentials | None) -> Principal:
    """A key is looked up once a second: a revoked one may work for one second more."""
    settings = get_settings()
    if settings.auth_disabled:
        limits = {"writes_a_minute": settings.writes_limit, "reads_a_minute": settings.reads_limit}
        return replace(ANYONE, quotas=limits)
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
        limits = quotas.limits_of(session.get_one(Tenant, key.tenant_id))
    keys.note_use(key)
    return Principal(key.id, key.tenant_id, frozenset(key.scopes), limits)


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
