"""What a request may not contain, checked before a route sees it."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.errors import InvalidError, NotFoundError, TooLargeError, invalid
from app.http.loopback import JSON, media_type_of
from app.http.problems import adapter_of
from app.services.paging import refused_query
from app.services.validation_errors import MAX_ERRORS, pointer
from app.settings import get_settings

MAX_DEPTH = 32
MAX_PARAMETERS = 200  # of a query
MAX_NAMES = 1000  # of one object; none of ours has as many fields
INLINE_BYTES = 4096  # a longer body is parsed and validated off the event loop
MAX_DESCRIBED = 5000  # errors; pydantic makes a list of all or none, and holds the interpreter lock
MAX_STRING_BYTES = 65_536
MAX_NUMBER: dict[type, float] = {bool: 1, int: 2**63 - 1, float: sys.float_info.max}


class StrictRequest(Request):
    """A request whose JSON body was read and checked once."""

    async def load(self) -> None:
        """Read the body by its bytes as they come, whatever ``Content-Length`` says, and parse it.

        Raises:
            TooLargeError: over the limit of the settings.
            HTTPException: 415 for another content type, 400 for what is not JSON.
            InvalidError: for values that no field accepts.
            RequestValidationError: for wrong values in a long body.
        """
        limit = get_settings().body_limit_bytes
        raw = bytearray()
        async for chunk in self.stream():
            raw += chunk
            if len(raw) > limit:
                raise TooLargeError(f"the body is longer than {limit} bytes")
        self._body = bytes(raw)
        if not raw:
            return
        media_type = media_type_of(self.headers)
        if media_type != JSON:
            raise HTTPException(415, f"the body is {media_type!r}; send {JSON}")
        if len(raw) <= INLINE_BYTES:
            self._json = self._parse()
        else:
            self._json = await run_in_threadpool(self._parse)
            await run_in_threadpool(self._validate)

    def _validate(self) -> None:
        """What FastAPI would do on the event loop; there it meets only bodies without errors."""
        try:
            adapter_of(self.scope["route"]).validate_python(self._json)
        except ValidationError as error:
            raise wrong_values(error, self._json) from error

    def _parse(self) -> Any:
        try:
            parsed = json.loads(
                self._body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_members
            )
        except RecursionError as error:
            raise invalid("", f"nested deeper than {MAX_DEPTH} levels", "too_deep") from error
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from error
        check(parsed)
        return parsed


def wrong_values(error: ValidationError, body: Any) -> Exception:
    """What to raise for a body with wrong values, of which some are described.

    Args:
        error: of its validation.
        body: as it was sent; None leaves the values out of the answer.
    """
    if error.error_count() > MAX_DESCRIBED:
        detail = f"{error.error_count()} wrong values; GET /v1/kinds/<kind>/schema"
        return invalid("", detail, "too_many_errors")
    errors = error.errors(include_url=False)[: MAX_ERRORS + 1]
    hidden = {"input": None} if body is None else {}
    return RequestValidationError(
        [{**each, **hidden, "loc": ("body", *each["loc"])} for each in errors], body=body
    )


class _Repetitive(dict[str, Any]):
    """An object in which a name comes twice: readers differ in which value they take."""

    name = ""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    repetitive = _Repetitive(members)
    repetitive.name = next(name for name, n in Counter(n for n, _ in pairs).items() if n > 1)
    return repetitive


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def check(value: Any, path: tuple[int | str, ...] = ()) -> None:
    """Refuse what is legal JSON and yet no value of ours.

    Raises:
        InvalidError: for a nesting over 32 levels, an object with a name twice or over 1,000
            names, a string over 64 KiB or one that UTF-8 or PostgreSQL cannot hold, a number
            beyond 64 bits.
    """
    if len(path) > MAX_DEPTH:
        raise _refused(path, f"nested deeper than {MAX_DEPTH} levels", "too_deep")
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, float | int) and not abs(value) <= MAX_NUMBER[type(value)]:
        raise _refused(path, "a number beyond 64 bits", "number")
    elif isinstance(value, dict):
        _check_names(value, path)
        for name, item in value.items():
            check(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check(item, (*path, index))


def _check_names(value: dict[str, Any], path: tuple[int | str, ...]) -> None:
    if len(value) > MAX_NAMES:
        detail = f"an object with {len(value)} names; at most {MAX_NAMES} are read"
        raise _refused(path, detail, "too_many_names")
    for name in value:
        _check_text(name, path)
    if isinstance(value, _Repetitive):
        raise _refused((*path, value.name), "this name comes twice; give it once", "repeated_name")


def _check_text(value: str, path: tuple[int | str, ...]) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise _refused(path, "half of a surrogate pair is no character", "string") from error
    if size > MAX_STRING_BYTES:
        raise _refused(path, f"a string of {size} bytes; at most {MAX_STRING_BYTES}", "string")
    if "\0" in value:
        raise _refused(path, "the character NUL is not allowed", "string")


def _refused(path: tuple[int | str, ...], detail: str, code: str) -> InvalidError:
    return invalid(pointer(path), detail, code)


def _check_address(request: Request) -> None:
    """Refuse NUL, which PostgreSQL has in no string, and more parameters than any route takes."""
    if "\0" in request.scope["path"]:
        raise NotFoundError("no address holds the character NUL")
    if b"%00" in request.scope["query_string"]:
        raise refused_query("", "the character NUL is not allowed in a query", "string")
    if (count := request.scope["query_string"].count(b"&") + 1) > MAX_PARAMETERS:
        detail = f"a query of {count} parameters; at most {MAX_PARAMETERS} are read"
        raise refused_query("", detail, "too_many_parameters")


class StrictRoute(APIRoute):
    """A route whose request was checked; use it as ``route_class`` of every router."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Check the request before FastAPI validates it."""
        handle = super().get_route_handler()
        has_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            _check_address(request)
            if has_body:
                request = StrictRequest(request.scope, request.receive)
                await request.load()
            return await handle(request)

        return strict
