"""Who looks at the page: the principal behind a cookie, and the token that forms must carry."""

import hmac
import secrets
from collections.abc import Callable
from typing import Annotated, NamedTuple

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.db.session import make_session
from app.errors import ForbiddenError, UnauthorizedError
from app.http.auth import ANYONE, Principal, demand
from app.services import keys, logins
from app.settings import get_settings

TOKEN_HEADER = "X-CSRF-Token"  # noqa: S105  # the name of a header
TOKEN_FIELD = "csrf_token"  # noqa: S105  # the name of a field


class Visitor(NamedTuple):
    """Who looks at the page.

    Attributes:
        principal: what the same key would be for the API.
        key_name: for people; empty where keys are off.
    """

    principal: Principal
    key_name: str

    @property
    def tenant_id(self) -> str:
        """The owner of what the visitor sees."""
        return self.principal.tenant_id

    @property
    def key_id(self) -> str:
        """The key that streams are counted for."""
        return self.principal.key_id

    def may(self, scope: str) -> bool:
        """Whether the key has a scope; pages leave out the buttons it has not."""
        return not self.principal.scopes.isdisjoint({scope, "admin"})


def cookie_name(request: Request, word: str) -> str:
    """Name of a cookie: browsers send those of one port to every other port of a host."""
    return f"sextant_{word}_{request.url.port or 0}"


def visit_of(request: Request) -> str:
    """Random text that tells this browser from others, new at its first request."""
    if not hasattr(request.state, "visit"):
        kept = request.cookies.get(cookie_name(request, "visit"))
        request.state.visit = kept or secrets.token_urlsafe(24)
    return request.state.visit


def login_of(request: Request) -> str:
    """The browser's login, empty where it has none."""
    return request.cookies.get(cookie_name(request, "login"), "")


def form_token(request: Request) -> str:
    """What every POST of this browser must carry."""
    return logins.form_token(visit_of(request), login_of(request))


def check_token(request: Request, token: str) -> None:
    """Refuse a POST that no page of ours has sent.

    Raises:
        ForbiddenError: for another token than :func:`form_token` gives.
    """
    if not hmac.compare_digest(token.encode(), form_token(request).encode()):
        raise ForbiddenError("this page is out of date or the request came from elsewhere; reload")


def keep(request: Request, response: Response, word: str, value: str, max_age_s: int) -> None:
    """Have the browser keep a cookie that no script reads and no other site has sent along."""
    response.set_cookie(
        cookie_name(request, word),
        value,
        max_age=max_age_s,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


async def visitor(request: Request) -> Visitor:
    """The visitor of a request.

    Raises:
        UnauthorizedError: without a login whose key is still valid.
    """
    if get_settings().auth_disabled:
        who = Visitor(ANYONE, "")
    elif login := login_of(request):
        who = await run_in_threadpool(_verify, login)
    else:
        raise UnauthorizedError("log in with a key")
    request.state.visitor = who  # for the header of the page
    return who


def _verify(login: str) -> Visitor:
    with make_session(write=False) as session:
        key = logins.verify(session, login)
    keys.note_use(key)
    return Visitor(Principal(key.id, key.tenant_id, frozenset(key.scopes)), key.name)


Anyone = Annotated[Visitor, Depends(visitor)]


def _require(scope: str) -> Callable[[Visitor], Visitor]:
    """Dependency: the visitor, if the key has ``scope``."""

    def scoped(who: Anyone) -> Visitor:
        demand(who.principal, scope)
        return who

    return scoped


JobsReader = Annotated[Visitor, Depends(_require("jobs:read"))]
JobsWriter = Annotated[Visitor, Depends(_require("jobs:write"))]
