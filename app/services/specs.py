"""Specs that come as plain JSON inside of another request."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.errors import InvalidError
from app.services.validation_errors import describe_errors
from models.catalog import JobSpec

SPEC: TypeAdapter[Any] = TypeAdapter(JobSpec)


def validated(spec: dict[str, Any], root: str, detail: str = "the spec is not valid") -> Any:
    """The spec of its kind.

    Args:
        spec: its JSON.
        root: JSON pointer of the spec in the request.
        detail: what to say of one that is wrong.

    Raises:
        InvalidError: naming each wrong field.
    """
    try:
        return SPEC.validate_python(spec)
    except ValidationError as error:
        errors = describe_errors(error.errors(), spec, SPEC, root)
        raise InvalidError(detail, errors) from error


def part(filled: dict[str, Any], pointer: str) -> dict[str, Any]:
    """The part of a dumped spec at a pointer of ``Spec.references``."""
    inner: Any = filled
    for step in pointer.split("/")[1:]:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    return inner
