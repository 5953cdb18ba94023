"""A route of the page: what browsers may do with it, tokens of forms, errors as pages."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import Request, Response
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import RedirectResponse

from app.errors import ServiceError, TooLargeError, UnauthorizedError
from app.http import problems
from app.http.loopback import media_type_of
from app.http.strict import StrictRoute
from app.web import visitor
from app.web.templates import render

# nothing from elsewhere, no script or style that is not a file of ours
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; worker-src 'self'; frame-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
FORM_BYTES = 4096
FORM = "application/x-www-form-urlencoded"
VISIT_S = 400 * 24 * 3600


class PageRoute(StrictRoute):
    """A route whose POSTs carry the token, and whose refusals are pages for people."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Check the token before anything else."""
        handle = super().get_route_handler()

        async def page(request: Request) -> Response:
            visit = visitor.visit_of(request)
            try:
                if request.method == "POST":
                    await _check_token(request, has_body=self.body_field is not None)
                response = await handle(request)
            except (ServiceError, HTTPException, RequestValidationError) as error:
                if not _navigates(request):
                    raise
                response = _refused(request, error)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            visitor.keep(request, response, "visit", visit, VISIT_S)
            return response

        return page


async def _check_token(request: Request, *, has_body: bool) -> None:
    """Refuse a POST without the token: in a header, or in a field of a plain form."""
    if media_type_of(request.headers) != FORM:
        visitor.check_token(request, request.headers.get(visitor.TOKEN_HEADER, ""))
        return
    if has_body:
        raise HTTPException(415, "this address takes JSON, no form")
    request.state.form = await _fields(request)
    visitor.check_token(request, request.state.form.get(visitor.TOKEN_FIELD, ""))


async def _fields(request: Request) -> dict[str, str]:
    """Fields of a plain form of at most 4 KiB."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > FORM_BYTES:
            raise TooLargeError(f"the form is longer than {FORM_BYTES} bytes")
    return {name: values[-1] for name, values in parse_qs(raw.decode(errors="replace")).items()}


def _navigates(request: Request) -> bool:
    """Whether a person opens the address; scripts ask for parts, and read problem documents."""
    return "text/html" in request.headers.get("accept", "") and "hx-request" not in request.headers


def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, UnauthorizedError) and request.method == "GET":
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/login?next={quote(request.url.path + query)}", 303)
    if isinstance(error, ServiceError):
        code, detail = error.code, error.detail
    elif isinstance(error, HTTPException):
        code = problems.CODES.get(error.status_code, "internal")
        detail = str(error.detail)
    else:
        code, detail = "not_found", f"nothing at {request.url.path}"
    status = problems.PROBLEMS[code].status
    title = HTTPStatus(status).phrase
    return render(request, "error.html", status_code=status, title=title, detail=detail)
