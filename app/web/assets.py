"""Files that browsers load: our own, and those of others with their licences, all from here."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "static"
FOR_EVER = "public, max-age=31536000, immutable"  # the address changes with the content


@cache
def prefix() -> str:
    """Address of the folder: it holds a digest of all files, so that none is ever out of date."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.rglob("*.*")):
        digest.update(path.relative_to(FOLDER).as_posix().encode() + b"\0" + path.read_bytes())
    return f"/static/{digest.hexdigest()[:12]}"


def url(name: str) -> str:
    """Address of a file of the folder."""
    return f"{prefix()}/{name}"


class Assets(StaticFiles):
    """The folder as an application; browsers keep its files."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    def file_response(self, *args: Any, **options: Any) -> Response:
        """A file, to be kept for ever."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = FOR_EVER
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
