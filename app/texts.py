"""Text and JSON on their way into the database.

What it cannot hold is taken out, and what users need not see: paths of the server.
"""

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

DEPTH_LIMIT = 64  # PostgreSQL and Python's JSON both end somewhere beyond a thousand
ERROR_CHARS = 4000
PATH = re.compile(r"(?:file://|(?<![\w./]))/([^\s/'\",:;()<>\[\]]+)((?:/[^\s/'\",:;()<>\[\]]+)+)/?")


def storable(value: Any, depth: int = DEPTH_LIMIT) -> Any:
    """The same JSON value without what a database refuses: NUL, half surrogates, NaN.

    Raises:
        ValueError: for lists and objects nested deeper than ``depth``.
    """
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, dict | list) and depth == 0:
        raise ValueError(f"nested deeper than {DEPTH_LIMIT} levels")
    if isinstance(value, dict):
        return {storable(name): storable(item, depth - 1) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item, depth - 1) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def without_paths(text: str) -> str:
    """``text`` with every path of this machine cut to its last name.

    A path is what begins with a folder of the root directory; so JSON pointers stay as they are.
    """
    return PATH.sub(_last_name, text)


def _last_name(match: re.Match[str]) -> str:
    return match[2].rpartition("/")[2] if match[1] in _root_folders() else match[0]


@cache
def _root_folders() -> frozenset[str]:
    """Names in the root directory: looked up once, for a text may hold any name and thousands."""
    return frozenset(path.name for path in Path("/").iterdir())


def error_text(text: str) -> str:
    """``text`` as an error may hold it: storable, without paths, at most 4,000 characters."""
    cleaned = without_paths(storable(text))
    return cleaned if len(cleaned) <= ERROR_CHARS else f"{cleaned[: ERROR_CHARS - 3]}..."
