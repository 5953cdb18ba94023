"""Templates, and how they write times, sizes and numbers."""

import json
import math
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.settings import get_settings
from app.web import assets, visitor

FOLDER = Path(__file__).parent / "templates"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
STEPS_S = ((1, "s"), (60, "min"), (3600, "h"), (86_400, "d"))
DIGITS = 4
NONE = "\N{EN DASH}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: ``42 s``, ``3 min 20 s``, ``2 h 5 min``; a dash for None."""
    if seconds is None:
        return NONE
    rest = max(round(seconds), 0)
    if rest < 60:
        return f"{rest} s"
    large = next(n for n in (3, 2, 1) if rest >= STEPS_S[n][0])
    whole, left = divmod(rest, STEPS_S[large][0])
    part = left // STEPS_S[large - 1][0]
    units = STEPS_S[large][1], STEPS_S[large - 1][1]
    return f"{whole} {units[0]} {part} {units[1]}" if part else f"{whole} {units[0]}"


def size(size_bytes: float | None) -> str:
    """Bytes in the unit that leaves one to three digits before the point; a dash for None."""
    if size_bytes is None:
        return NONE
    power = min(int(math.log(size_bytes, 1024)), len(UNITS) - 1) if size_bytes >= 1 else 0
    scaled = size_bytes / 1024**power
    return f"{scaled:.0f} {UNITS[power]}" if power == 0 else f"{scaled:.1f} {UNITS[power]}"


def number(value: Any) -> str:
    """A number with four digits that count; anything else as JSON."""
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def pretty(value: Any) -> str:
    """JSON for reading."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def words(text: str) -> str:
    """A docstring for reading: without the marks of code."""
    return text.replace("``", "")


def since(start: datetime | None, end: datetime | None = None) -> str:
    """Time from ``start`` to ``end``, or to now; a dash where it has not begun."""
    if start is None:
        return NONE
    return duration(((end or datetime.now(UTC)) - start).total_seconds())


@cache
def environment() -> Environment:
    """The templates; a name that is not there is an error, and all text is escaped."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "duration": duration,
        "size": size,
        "number": number,
        "pretty": pretty,
        "since": since,
        "words": words,
    }
    return made


def render(
    request: Request, template: str, /, status_code: int = 200, **values: Any
) -> HTMLResponse:
    """A template as an answer.

    Args:
        request: that it answers; the visitor, once known, decides what the header shows.
        template: its name.
        status_code: of the answer.
        values: what the template shows.
    """
    common = {
        "asset": assets.url,
        "path": request.url.path,
        "csrf_token": visitor.form_token(request),
        "visitor": getattr(request.state, "visitor", None),
        "auth_disabled": get_settings().auth_disabled,
    }
    return HTMLResponse(environment().get_template(template).render(common | values), status_code)
