"""What was seen of a flood: a field of the specs. Torch-free."""

from pydantic import Field, model_validator

from models.core.spec import SpecGroup
from models.terrain.spec.places import MarksRef
from models.terrain.spec.terrains import Map


class Observed(SpecGroup):
    """What was seen of a flood, to compare its greatest depth with."""

    extent: Map | None = Field(
        default=None, description="Raster of what was wet: 0 dry, any other value wet"
    )
    marks: MarksRef | None = Field(
        default=None, description="Surveyed levels, a dataset of format marks"
    )
    wet_depth_m: float = Field(
        default=0.1, ge=1e-4, le=10, description="Modelled depth that counts as wet"
    )

    @model_validator(mode="after")
    def _any(self) -> "Observed":
        if self.extent is None and self.marks is None:
            raise ValueError("observed: give extent, marks or both")
        return self
