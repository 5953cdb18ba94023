"""Numbers of a job as the service sends them, and as a table."""

from collections.abc import Mapping
from typing import Any

from sextant_client.answers import PointRead
from sextant_client.asking import json_of
from sextant_client.flow import Flow, Request
from sextant_client.loading import first_of


class Metrics(dict[str, Any]):
    """The answer of ``/metrics``: under ``series`` the points of each name."""

    @property
    def series(self) -> dict[str, list[PointRead]]:
        """The points of each name, in the order of steps."""
        return self["series"]

    def to_frame(self) -> Any:
        """A row a step, a column a name, of pandas or else polars; nothing where there is none.

        Raises:
            ImportError: if neither is installed.
        """
        frames = first_of("pandas", "polars")
        if frames is None:
            raise ImportError("a frame takes pandas or polars: pip install pandas")
        columns = self.columns()
        if frames.__name__ == "polars":
            return frames.DataFrame(columns)
        return frames.DataFrame(columns).set_index("step")

    def columns(self) -> dict[str, list[float | None]]:
        """The steps of all series in order, and for each name its values there, or None."""
        series = {
            name: {point["step"]: point["value"] for point in points}
            for name, points in self.series.items()
        }
        steps = sorted({step for points in series.values() for step in points})
        columns = {name: [points.get(step) for step in steps] for name, points in series.items()}
        return {"step": list(steps), **columns}


def metrics_of(job_id: str, query: Mapping[str, Any]) -> Flow[Metrics]:
    """The numbers of a job."""
    request = Request("GET", f"/v1/jobs/{job_id}/metrics", query)
    return Metrics((yield from json_of(request)))
