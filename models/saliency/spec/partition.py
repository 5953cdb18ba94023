"""Spec fields of partition SHAP. Torch-free."""

from typing import Literal

from pydantic import Field

from models.core.spec import SpecGroup


class PartitionShap(SpecGroup):
    """Owen values of the cells of a grid that is halved again and again.

    Owen 1977; as SHAP's partition explainer, but with every coalition of the hierarchy, so exact.
    """

    id: Literal["partition_shap"]
    grid: Literal[2, 4, 8, 16] = Field(
        default=8, description="Cells along each side; 12, 172, 2,732 or 43,692 rows"
    )

    @property
    def depth(self) -> int:
        """Halvings from the whole image to a cell."""
        return 2 * (self.grid.bit_length() - 1)

    def rows(self, height: int, width: int) -> int:
        """Rows through the net for one image and one baseline: one for each coalition."""
        return 2 + 2 * (4**self.depth - 1) // 3
