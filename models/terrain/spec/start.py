"""The water at 0 s: a field of the specs. Torch-free."""

from pydantic import Field, model_validator

from models.core.spec import SpecGroup
from models.terrain.spec.places import StateRef
from models.terrain.spec.terrains import Map


class Start(SpecGroup):
    """The water on a terrain at 0 s, at rest except where a state is taken up."""

    depth_m: float | None = Field(default=None, ge=0, le=1e4, description="The same everywhere")
    level_m: float | None = Field(
        default=None, ge=-1e4, le=1e4, description="All ground below it is filled to it"
    )
    depth_map: Map | None = Field(default=None, description="Depth in m of each cell")
    level_map: Map | None = Field(default=None, description="Level in m of each cell")
    state: StateRef | None = Field(
        default=None,
        description="state.safetensors of a terrain.simulate job on the same terrain: depths and"
        " discharges; its time counts from 0 s again",
    )

    @model_validator(mode="after")
    def _one(self) -> "Start":
        names = list(Start.model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"start: give one of {', '.join(names)}")
        return self
