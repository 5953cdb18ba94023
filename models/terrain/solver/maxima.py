"""Greatest speed, discharge and hazard of each cell, and the time it was wet."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from models.terrain.solver.scheme import FlowState

HAZARD_M_S = 0.5  # added to the speed: still water is dangerous too (Defra FD2320, no debris)


class Maxima:
    """What is kept of a flood's states: cells above ``wet_m`` count.

    Attributes:
        wet_m: m.
        speed: greatest |q| / h so far in m/s [ny, nx], of a cell's mean discharge.
        discharge: greatest |q| = h v in m2/s.
        hazard: greatest h (v + 0.5 m/s) in m2/s.
        wet_s: time above ``wet_m`` in s, between looks by the state at their end.
    """

    def __init__(self, shape: tuple[int, ...], wet_m: float) -> None:
        self.wet_m, self._t = wet_m, 0.0
        self.speed, self.discharge, self.hazard, self.wet_s = (torch.zeros(shape) for _ in range(4))

    @property
    def fields(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Speed, discharge, hazard, time wet."""
        return self.speed, self.discharge, self.hazard, self.wet_s

    def since(self, t: float) -> float:
        """Time in s since the last look, which is now at ``t``."""
        dt, self._t = t - self._t, t
        return dt

    def update(self, state: FlowState, t: float) -> None:
        """Take a state of one sample at time ``t`` in s into account, on its device."""
        h, q = state.h[0], cell_discharge(state)[0]
        if self.speed.device != h.device:
            moved = (field.to(h.device) for field in self.fields)
            self.speed, self.discharge, self.hazard, self.wet_s = moved
        wet, dt = h > self.wet_m, self.since(t)
        q = torch.where(wet, q, 0)
        torch.maximum(self.speed, (q / torch.where(wet, h, 1)).float(), out=self.speed)
        torch.maximum(self.discharge, q.float(), out=self.discharge)
        hazard = torch.where(wet, q + HAZARD_M_S * h, 0).float()
        torch.maximum(self.hazard, hazard, out=self.hazard)
        self.wet_s += dt * wet


def cell_discharge(state: FlowState) -> Float[Tensor, "b ny nx"]:
    """Discharge of a cell in m2/s, by the means of its faces each way; edges are closed."""
    qx, qy = pad(state.qx, (1, 1)), pad(state.qy, (0, 0, 1, 1))
    along, across = (qx[:, :, 1:] + qx[:, :, :-1]) / 2, (qy[:, 1:] + qy[:, :-1]) / 2
    return torch.sqrt(along**2 + across**2)
