"""Every kind of job: the union of the specs."""

import json
from collections.abc import Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from models.core.spec import Spec
from models.stored import CLASSES, class_of

if TYPE_CHECKING:  # a checker cannot read a union that is made of a table
    JobSpec = Any
else:
    JobSpec = Annotated[reduce(or_, map(class_of, CLASSES)), Field(discriminator="kind")]


def kinds() -> dict[str, type[Spec]]:
    """Spec classes by kind."""
    return {kind: class_of(kind) for kind in CLASSES}


@cache
def _shipped() -> dict[str, dict[str, list[list[float]]]]:
    return json.loads((Path(__file__).parent / "timings.json").read_text())["seconds"]


def shipped_timings(kind: str, unit: str) -> Sequence[tuple[float, float]]:
    """Work and wall seconds of runs of a kind on two CPU cores, measured before the release.

    ``tests/bench/timings.py`` writes them; none for a kind that it has not run.
    """
    return [(work, seconds) for work, seconds in _shipped().get(kind, {}).get(unit, ())]
