"""Reads the JSON file of a spec or a job; what is wrong is said with file, line and column."""

import json
import math
import re
from typing import Any

LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|[-+.\w]+')  # a text, or a number or word outside of texts


class _NumberError(ValueError):
    """A number that JSON has not; the message is its token."""


def parse(raw: bytes, file: str) -> dict[str, Any]:
    """The object in a file.

    Args:
        raw: its bytes: UTF-8, with or without a byte order mark.
        file: its name, for errors.

    Raises:
        ValueError: in one line, with the file and the place in it.
    """
    text = _decoded(raw, file)
    try:
        parsed = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_members
        )
        json.dumps(parsed, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"{_at(file, text, error.pos)}: no JSON: {error.msg}") from error
    except _NumberError as error:
        position = next(m.start() for m in LITERAL.finditer(text) if m[0] == str(error))
        raise ValueError(
            f"{_at(file, text, position)}: {error} is no number of JSON; give a finite one"
        ) from error
    except UnicodeEncodeError as error:
        raise ValueError(f"{file}: a text holds half of a surrogate pair") from error
    except RecursionError as error:
        raise ValueError(f"{file}: nested too deeply for a spec") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{file}: must hold one JSON object: a spec with its kind")  # noqa: TRY004  # wrong input, not a wrong call
    return parsed


def _decoded(raw: bytes, file: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(errors="replace")
        raise ValueError(
            f"{_at(file, before, len(before))}: byte {error.object[error.start]:#04x} is not "
            "UTF-8; save the file as UTF-8"
        ) from error


def _at(file: str, text: str, position: int) -> str:
    before = text[:position]
    line, column = before.count("\n") + 1, position - before.rfind("\n")
    return f"{file}, line {line}, column {column}"


def _refuse(token: str) -> float:
    raise _NumberError(token)


def _finite(token: str) -> float:
    value = float(token)
    return value if math.isfinite(value) else _refuse(token)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The service refuses a name that comes twice, but would be sent only the last value."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} comes twice in one object")
    return members
