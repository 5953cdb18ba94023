"""Where the service of this machine is, and its first key; no SQL, no process is touched."""

import os

from app.settings import Settings

ADDRESS = "address"
INSTANCE_HEADER = "Sextant-Instance"  # of /readyz: SEXTANT_INSTANCE of the process that answers


class StartError(Exception):
    """The service cannot start; the message says why and what to do."""


def local_url(settings: Settings) -> str:
    """URL of the service of the state directory; `sextant up --bind` leaves a note there."""
    note = settings.state_dir / ADDRESS
    return note.read_text().strip() if note.is_file() else address_of(settings)


def address_of(settings: Settings) -> str:
    """URL under which a caller on this machine reaches the API."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  # compared, not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def admin_key(settings: Settings) -> str | None:
    """The key that the first start wrote, if it is there and may be read."""
    path = settings.state_dir / "admin.key"
    return path.read_text().strip() if os.access(path, os.R_OK) else None
