"""The server's secret under which keys are hashed and cursors signed."""

import os
import secrets
from functools import cache
from pathlib import Path

from app.settings import get_settings


def pepper() -> bytes:
    """The server's secret: the setting, or a file of the state directory made at first use."""
    given = get_settings().auth_pepper.get_secret_value()
    return given.encode() if given else _pepper_file(get_settings().state_dir / "pepper")


@cache
def _pepper_file(path: Path) -> bytes:
    """Of several processes that start at once, one makes the file and all read the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    write_private(draft, secrets.token_hex(32))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_bytes()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
