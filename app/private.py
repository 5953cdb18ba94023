"""The state directory is its owner's alone."""

import os

from app.settings import get_settings


def keep_private() -> int:
    """Make files of this process and its children 0600, folders 0700; the state folder too.

    Returns:
        The mask of file modes before.
    """
    mask = os.umask(0o077)
    folder = get_settings().state_dir
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid == os.geteuid():  # one that was made for several users is theirs
        folder.chmod(0o700)
    return mask
