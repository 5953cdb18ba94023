"""What a request may not contain, checked before a route sees it."""

import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import HTTPException
from fastapi.routing import APIRoute

from app.errors import InvalidError, NotFoundError, TooLargeError, invalid
from app.services.paging import refused_query
from app.services.validation_errors import pointer
from app.settings import get_settings

MAX_DEPTH = 32
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
        """
        limit = get_settings().body_limit_bytes
        raw = bytearray()
        async for chunk in self.stream():
            raw += chunk
            if len(raw) > limit:
                raise TooLargeError(f"the body is longer than {limit} bytes")
        self._body = bytes(raw)
        if raw:
            self._json = self._parse()

    def _parse(self) -> Any:
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise HTTPException(415, f"the body is {media_type!r}; send application/json")
        try:
            parsed = json.loads(self._body.decode(), parse_constant=_refuse_constant)
        except RecursionError as error:
            raise invalid("", f"nested deeper than {MAX_DEPTH} levels", "too_deep") from error
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from error
        check(parsed)
        return parsed


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def check(value: Any, path: tuple[int | str, ...] = ()) -> None:
    """Refuse what is legal JSON and yet no value of ours.

    Raises:
        InvalidError: for a nesting over 32 levels, a string over 64 KiB or one that UTF-8 or
            PostgreSQL cannot hold, a number beyond 64 bits.
    """
    if len(path) > MAX_DEPTH:
        raise _refused(path, f"nested deeper than {MAX_DEPTH} levels", "too_deep")
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, float | int) and not abs(value) <= MAX_NUMBER[type(value)]:
        raise _refused(path, "a number beyond 64 bits", "number")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, path)
            check(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check(item, (*path, index))


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
    """PostgreSQL has no strings with NUL: nothing can have such a name."""
    if "\0" in request.scope["path"]:
        raise NotFoundError("no address holds the character NUL")
    if b"%00" in request.scope["query_string"]:
        raise refused_query("", "the character NUL is not allowed in a query", "string")


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
