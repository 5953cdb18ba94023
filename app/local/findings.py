"""What a check of ``sextant doctor`` found."""

from typing import NamedTuple


class Finding(NamedTuple):
    """What a check found; ``ok`` is None where something optional is not there."""

    check: str
    ok: bool | None
    found: str
    hint: str = ""
