"""Fields over time in a dataset: fields of the specs. Torch-free."""

from typing import Literal

from pydantic import Field

from models.core.needs import Bound, DatasetNeed
from models.core.spec import DatasetRef


class RainStack(DatasetRef):
    """Rain in time and space: an uploaded NetCDF of dimensions time, y and x."""

    variable: str | None = Field(
        default=None,
        max_length=200,
        description="Rate of rain in mm h-1, kg m-2 s-1 or the like; null: the only one",
    )
    between: Literal["step", "linear"] = Field(
        default="step",
        description="step: a field falls from its time to the next, or within its time bounds, as"
        " radar gives it; the last as long as the one before. linear: rates change linearly from"
        " time to time. Neither rains before the first or after the last",
    )

    def need(self, pointer: str) -> DatasetNeed:
        """Fields over time, of rain; ``pointer`` is that of this reference within the spec."""
        remedy = (
            "write its unit as a rate of rain, such as mm h-1 or kg m-2 s-1; an amount (mm) only"
            " with time bounds and cell_methods 'time: sum'"
        )
        bounds = Bound("frames", 1), Bound("rain_variables", 1, remedy=remedy)
        return DatasetNeed(pointer, {"fields over time": bounds})
