"""Water that goes into the ground: a constant rate, or Green and Ampt's wetting front."""

import torch
from jaxtyping import Float
from torch import Tensor


class Soil:
    """The ground of one flood, with what it has taken up.

    With the depth h, the sum F of what went in, conductivity K, suction head psi, deficit d:

        dF/dt = K (1 + S / F),  S = (psi + h) d,   no more than there is

    by the implicit midpoint rule, a quadratic for the sum in the middle of a step, which is exact
    for K << sqrt(K S / t), the beginning. Without a deficit it is the constant rate K.

    Args:
        conductivity: K, m/s [ny, nx].
        suction: psi d, m [ny, nx]; None: a constant rate.
        deficit: d [ny, nx].

    Attributes:
        taken: F, m [1, ny, nx], float64.
    """

    def __init__(
        self,
        conductivity: Float[Tensor, "ny nx"],
        suction: Float[Tensor, "ny nx"] | None = None,
        deficit: Float[Tensor, "ny nx"] | None = None,
    ) -> None:
        self.conductivity, self.suction, self.deficit = conductivity, suction, deficit
        self.taken = torch.zeros(1, *conductivity.shape, dtype=torch.float64)

    def without(self, cells: Tensor) -> "Soil":
        """The same ground, but nothing goes in at these cells [ny, nx]."""
        return Soil(self.conductivity.masked_fill(cells, 0), self.suction, self.deficit)

    def soak(
        self, h: Float[Tensor, "1 ny nx"], dt: Float[Tensor, "1"], wet: Tensor | float = 1.0
    ) -> Float[Tensor, "1 ny nx"]:
        """Depth that is left on the ground after ``dt`` s.

        Args:
            h: mean depth before, m.
            dt: s.
            wet: share of each cell that is under water.
        """
        k, deep = self.conductivity.double() * dt[:, None, None], h.double()
        most = k
        if self.suction is not None and self.deficit is not None:
            head, twice = self.suction.double() + deep * self.deficit.double(), 2 * self.taken + k
            root = (twice**2 + 8 * k * head).sqrt() + twice
            most = k * (1 + 4 * head / torch.where(root > 0, root, 1))
        amount = torch.minimum(most * wet, deep)
        self.taken += amount
        return (deep - amount).to(h.dtype)
