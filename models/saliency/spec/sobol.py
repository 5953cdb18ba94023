"""Spec fields of Sobol attribution. Torch-free."""

from typing import Literal

from pydantic import Field, model_validator

from models.core.spec import Int, SpecGroup


class Sobol(SpecGroup):
    """Share of the score's variance under random masks that a cell takes part in (Fel et al. 2021).

    Total indices: what a cell explains alone and together with others.
    """

    id: Literal["sobol"]
    grid: Int = Field(default=8, ge=2, le=64, description="Cells along each side of a mask")
    designs: Int = Field(
        default=32,
        ge=2,
        le=65_536,
        description="Points of the quasi-random design, a power of two; with grid^2 cells "
        "designs x (grid^2 + 1) rows through the net",
    )

    @model_validator(mode="after")
    def _balanced(self) -> "Sobol":
        if self.designs & (self.designs - 1):
            lower = 1 << (self.designs.bit_length() - 1)
            raise ValueError(
                f"designs {self.designs} is no power of two, which balance needs; use {lower} or "
                f"{2 * lower}"
            )
        return self

    def rows(self, height: int, width: int) -> int:
        """Rows through the net for one image and one baseline."""
        return self.designs * (self.grid**2 + 1)
