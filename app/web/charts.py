"""Which numbers of a job share a chart, and their points in columns."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from app.services.metrics import Point
from models.catalog import kinds


class Chart(NamedTuple):
    """One chart: series of one unit whose names end alike.

    Attributes:
        name: of the series whose name ends all the others.
        unit: of the values; empty where nothing is declared.
        description: what the values are.
        names: of its series, the shortest first.
    """

    name: str
    unit: str
    description: str
    names: list[str]


def charts(kind: str, names: Iterable[str]) -> list[Chart]:
    """Charts of the series that a job of a kind has reported, in the order that the kind declares.

    ``baseline_loss`` joins ``loss``: a longer name that ends with ``_`` and a shorter one of the
    same unit shares its chart.
    """
    spec = kinds().get(kind)
    declared = {metric.name: metric for metric in spec.metrics} if spec else {}
    order = {name: position for position, name in enumerate(declared)}
    made: list[Chart] = []
    for name in sorted(names, key=lambda each: (len(each), each)):
        metric = declared.get(name)
        unit = _unit(metric.unit if metric else "")
        host = next((c for c in made if name.endswith(f"_{c.name}") and c.unit == unit), None)
        if host is None:
            made.append(Chart(name, unit, metric.description if metric else "", [name]))
        else:
            host.names.append(name)
    return sorted(made, key=lambda chart: (order.get(chart.name, len(order)), chart.name))


def _unit(declared: str) -> str:
    """A unit to be shown: 1 is none."""
    return "" if declared == "1" else declared


def columns(points: Sequence[Point]) -> dict[str, list[Any]]:
    """Points as columns for a chart; the extremes of ranges only where there are ranges."""
    made: dict[str, list[Any]] = {
        "step": [point.step for point in points],
        "value": [point.value for point in points],
    }
    if any(point.count > 1 for point in points):
        made |= {"min": [point.min for point in points], "max": [point.max for point in points]}
    return made
