"""Greatest speed, discharge and hazard of each cell, and the time it was wet."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from models.terrain.solver.scheme import FlowState
from models.terrain.solver.subgrid import (
    SubgridTerrain,
    depth_over_lowest,
    face_shape,
    storage_slope,
)

HAZARD_M_S = 0.5  # added to the speed: still water is dangerous too (Defra FD2320, no debris)


class Maxima:
    """What is kept of a flood's states: cells above ``wet_m`` count.

    Attributes:
        wet_m: m.
        speed: greatest |q| / h so far in m/s [ny, nx], of a cell's mean discharge.
        discharge: greatest |q| = h v in m2/s.
        hazard: greatest h (v + 0.5 m/s) in m2/s.
        wet_s: time above ``wet_m`` in s, between looks by the state at their end.
        subgrid: of the flood; speed and hazard are then those of a cell's wet part.
    """

    def __init__(
        self, shape: tuple[int, ...], wet_m: float, subgrid: SubgridTerrain | None = None
    ) -> None:
        self.wet_m, self.subgrid, self._t = wet_m, subgrid, 0.0
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
        speed, hazard = q / torch.where(wet, h, 1), q + HAZARD_M_S * h
        if self.subgrid is not None:
            depth, speed = (field[0] for field in wet_part(state, self.subgrid, self.wet_m))
            hazard = depth * (speed + HAZARD_M_S)
        torch.maximum(self.speed, torch.where(wet, speed, 0).float(), out=self.speed)
        torch.maximum(self.discharge, q.float(), out=self.discharge)
        torch.maximum(self.hazard, torch.where(wet, hazard, 0).float(), out=self.hazard)
        self.wet_s += dt * wet


def cell_discharge(state: FlowState) -> Float[Tensor, "b ny nx"]:
    """Discharge of a cell in m2/s, by the means of its faces each way; edges are closed."""
    qx, qy = pad(state.qx, (1, 1)), pad(state.qy, (0, 0, 1, 1))
    along, across = (qx[:, :, 1:] + qx[:, :, :-1]) / 2, (qy[:, 1:] + qy[:, :-1]) / 2
    return torch.sqrt(along**2 + across**2)


class WetPart(NamedTuple):
    """Water in the wet parts of cells: depth in m, speed in m/s, both [b, ny, nx]."""

    depth: Tensor
    speed: Tensor


def wet_part(state: FlowState, subgrid: SubgridTerrain, least_m: float) -> WetPart:
    """Depth and speed of the water where a subgrid's cells are wet.

    The depth is the volume over the wet area. The speed has each way the discharge of both faces
    over their flow depths, those of at most ``least_m`` left out: what remains of a discharge in a
    face that falls dry is no speed.
    """
    lowest, grid, _ = subgrid
    w = lowest + depth_over_lowest(state.h, grid)
    deep_x = face_shape(torch.maximum(w[:, :, 1:], w[:, :, :-1]), grid.x).depth
    deep_y = face_shape(torch.maximum(w[:, 1:], w[:, :-1]), grid.y).depth
    along = _through(pad(state.qx, (1, 1)), pad(deep_x, (1, 1)), least_m)
    across = _through(pad(state.qy.mT, (1, 1)), pad(deep_y.mT, (1, 1)), least_m).mT
    return WetPart(state.h * storage_slope(state.h, grid), torch.sqrt(along**2 + across**2))


def _through(q: Tensor, depth: Tensor, least_m: float) -> Tensor:
    """Speed between neighbours in a row of faces, by their discharges and flow depths."""
    open_ = depth > least_m
    q, depth = torch.where(open_, q, 0), torch.where(open_, depth, 0)
    whole = depth[:, :, 1:] + depth[:, :, :-1]
    return (q[:, :, 1:] + q[:, :, :-1]) / torch.where(whole > 0, whole, 1)
