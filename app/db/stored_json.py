"""JSON columns read: a page of 50 jobs has 400 of them, which cost more than all else of it."""

import json
from typing import Any

from pydantic_core import from_json


def parse(text: str | bytes) -> Any:
    """The value of a JSON column, as ``json.loads`` gives it, in half the time."""
    try:
        return from_json(text)
    except ValueError:  # what only old rows hold: half surrogates, 200 levels
        return json.loads(text)
