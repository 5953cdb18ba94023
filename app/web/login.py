"""Logging in and out: a key is exchanged for a cookie."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from app.db.session import make_session
from app.errors import UnauthorizedError
from app.services import logins
from app.settings import get_settings
from app.web import visitor
from app.web.page_route import PageRoute
from app.web.templates import render

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Next = Annotated[str, Query(max_length=4096)]


@router.get("/login")
async def login_page(request: Request, next: Next = "/") -> Response:  # of the address
    """Ask for a key."""
    if get_settings().auth_disabled:
        return RedirectResponse("/", 303)
    return render(request, "login.html", destination=_local(next), refused=None)


@router.post("/login")
async def login(request: Request) -> Response:
    """Exchange a key for a login; without scripts, as a plain form."""
    fields = getattr(request.state, "form", {})
    destination = _local(fields.get("next", "/"))
    try:
        value = await run_in_threadpool(_issue, fields.get("key", ""))
    except UnauthorizedError as error:
        refused = error.detail
        return render(request, "login.html", 401, destination=destination, refused=refused)
    response = RedirectResponse(destination, 303)
    visitor.keep(request, response, "login", value, logins.LOGIN_S)
    return response


@router.post("/logout")
async def logout(request: Request) -> Response:
    """Forget the login of this browser."""
    response = RedirectResponse("/login", 303)
    visitor.keep(request, response, "login", "", 0)
    return response


def _issue(token: str) -> str:
    with make_session(write=False) as session:
        return logins.issue(session, token)


def _local(address: str) -> str:
    """``address`` if it is a page of ours, else the first page: no link leads away by a login."""
    parts = urlsplit(address.replace("\\", "/"))
    local = address.startswith("/") and not parts.netloc and not parts.scheme
    return address if local else "/"
