"""What belongs to the service alone: its state directory, the memory of its processes."""

import os

from app.settings import get_settings
from models.core.confine import hide_memory


def keep_private() -> int:
    """Make files of this process and its children 0600, folders 0700; the state folder too.

    On Linux no process of the same user reads memory or environment of this one, where secrets are.

    Returns:
        The mask of file modes before.
    """
    hide_memory()
    mask = os.umask(0o077)
    folder = get_settings().state_dir
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid == os.geteuid():  # one that was made for several users is theirs
        folder.chmod(0o700)
    return mask
