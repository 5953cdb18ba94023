"""Water that goes into the ground: fields of the specs. Torch-free."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from models.core.needs import Need
from models.core.spec import SpecGroup
from models.terrain.spec.places import needs_of
from models.terrain.spec.terrains import Map


class _Ground(SpecGroup):
    """Quantities of the ground, each a number or a map."""

    quantities: ClassVar[tuple[tuple[str, str], ...]] = ()

    @model_validator(mode="after")
    def _each_once(self) -> "_Ground":
        for number, on_cells in self.quantities:
            if (getattr(self, number) is None) == (getattr(self, on_cells) is None):
                raise ValueError(f"give {number} or {on_cells}, one of the two")
        return self

    def needs(self, pointer: str) -> Iterator[Need]:
        """Of the maps; ``pointer`` is that of this group within the spec."""
        yield from needs_of(self, tuple(on_cells for _, on_cells in self.quantities), pointer)


RATE_MM_H = 1e4


class ConstantInfiltration(_Ground):
    """A constant rate wherever there is water."""

    quantities = (("mm_per_h", "map"),)

    type: Literal["constant"]
    mm_per_h: float | None = Field(default=None, ge=0, le=RATE_MM_H)
    map: Map | None = Field(default=None, description="The rate of each cell, mm/h")


class GreenAmpt(_Ground):
    """Green and Ampt 1911: a wetting front that sinks into soil of uniform moisture."""

    quantities = (
        ("conductivity_mm_per_h", "conductivity_map"),
        ("suction_head_m", "suction_head_map"),
        ("moisture_deficit", "moisture_deficit_map"),
    )

    type: Literal["green_ampt"]
    conductivity_mm_per_h: float | None = Field(
        default=None, ge=0, le=RATE_MM_H, description="Saturated hydraulic conductivity"
    )
    conductivity_map: Map | None = Field(default=None, description="Of each cell, mm/h")
    suction_head_m: float | None = Field(
        default=None, ge=0, le=10, description="At the wetting front"
    )
    suction_head_map: Map | None = Field(default=None, description="Of each cell, m")
    moisture_deficit: float | None = Field(
        default=None, ge=0, le=1, description="Pore space without water at 0 s, of the volume"
    )
    moisture_deficit_map: Map | None = Field(default=None, description="Of each cell")


Infiltration = Annotated[ConstantInfiltration | GreenAmpt, Field(discriminator="type")]
