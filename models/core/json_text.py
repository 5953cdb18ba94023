"""JSON that came with strangers' files. Torch-free."""

import json
from typing import Any

from models.core.errors import DataError


def parse_json(content: bytes | str, name: str) -> Any:
    """A JSON document.

    Args:
        content: its text.
        name: of what holds it, for messages.

    Raises:
        DataError: if it is none, or nested deeper than Python's stack.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise DataError(f"{name}: JSON nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{name}: no JSON: {error}") from error
