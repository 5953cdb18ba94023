"""Figures that a run hands over are finite, or the run has diverged. Torch-free."""

import math
from collections.abc import Iterator
from typing import Any

from models.core.errors import DivergedError

HINT = "lower the learning rate (optimizer.lr, or lr of a phase), or look at the data"
NAMED = 5  # figures in a message


def check_figures(figures: Any, where: str) -> None:
    """Refuse figures that no reader can use: NaN and infinities.

    Args:
        figures: numbers in dictionaries and lists of any depth; everything else is passed over.
        where: what they are of, for the message.

    Raises:
        DivergedError: naming the first few that are not finite.
    """
    if wrong := list(_not_finite(figures, "")):
        named = ", ".join(wrong[:NAMED]) + (", ..." if len(wrong) > NAMED else "")
        raise DivergedError(f"not finite in the {where}: {named}", hint=HINT)


def _not_finite(value: Any, name: str) -> Iterator[str]:
    """``name = value`` of every number that is NaN or infinite."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{name}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{name} = {value}"
