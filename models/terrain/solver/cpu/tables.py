"""The tables of a subgrid as the padded arrays of the fused CPU engine."""

import numpy as np
from torch import Tensor

from models.terrain.solver.cpu import arrays
from models.terrain.solver.cpu.tile import LEFT, STRIDE, TOP, WALL
from models.terrain.solver.subgrid import STORAGE_UNITS, FaceTables, Subgrid, packed

BELOW, RIGHT = 5, 32  # rows and columns of closed faces after the grid; a tile reads as far


def table_pitch(nx: int) -> int:
    """Columns of a padded field of a grid of ``nx`` columns."""
    return LEFT + nx + RIGHT


def subgrid_arrays(grid: Subgrid | None, layout: arrays.TileLayout) -> dict[str, np.ndarray]:
    """The arrays ``d`` to ``face_shapes`` of :class:`arrays.FlowArrays`; empty without a subgrid.

    Args:
        grid: tables of one sample, float32.
        layout: of the grid.
    """
    names = ("d", "cell_fields", "storage", "face_fields", "face_shapes")
    if grid is None:
        return {name: np.empty(0, np.float32) for name in names}
    last = layout.entries - 1
    full = grid.full[0]
    per_depth = last**2 / full.where(full > 0, np.inf)
    lift = grid.storage[0, ..., -1] - full
    bumpy = full.where(full > 0, -np.inf)  # level cells are always full
    cells = [_padded(field, 0.0, layout) for field in (per_depth, bumpy, lift)]
    faces = [_fields(side, last) for side in (grid.x, grid.y)]
    shares = grid.storage[0] / (grid.storage[0, ..., -1:] + (grid.full[0, ..., None] == 0))
    storage = _padded((shares * STORAGE_UNITS).round(), 0.0, layout).astype(np.uint16)
    values = (
        np.zeros(2 * layout.ny * layout.nx, np.float32),
        np.concatenate(cells),
        np.concatenate([storage, storage[: len(storage) % 2]]).view(np.float32),
        np.concatenate([_padded(f, closed, layout) for side in faces for f, closed in side]),
        np.concatenate([_shapes(side, layout) for side in (grid.x, grid.y)]),
    )
    return dict(zip(names, values, strict=True))


def _fields(faces: FaceTables, last: int) -> list[tuple[Tensor, float]]:
    """Sill, entries a metre, mean, far and fall of faces, each with its value in closed ones."""
    fall = (faces.far - faces.friction[..., -1]) * faces.depth[..., -1] ** 2
    closed, fields = 2 * float(WALL), (faces.sill, last / faces.span, faces.mean, faces.far, fall)
    return [
        (field[0], value)
        for field, value in zip(fields, (closed, 0.0, closed, 1.0, 0.0), strict=True)
    ]


def _shapes(faces: FaceTables, layout: arrays.TileLayout) -> np.ndarray:
    """Packed depths and frictions, flat; the bits of int32 in an array of float32."""
    words = packed(faces.depth[0].detach(), faces.friction[0].detach())
    return _padded(words, 0.0, layout, np.int32).view(np.float32)


def _padded(
    field: Tensor, outside: float, layout: arrays.TileLayout, dtype: type = np.float32
) -> np.ndarray:
    """A field [ny, nx, ...] or of its faces, surrounded by ``outside``; flat."""
    shape = (TOP + layout.ny + BELOW, layout.table_pitch, *field.shape[2:])
    wide = np.full((int(np.prod(shape[:2])) + STRIDE, *shape[2:]), outside, dtype)
    rows, columns = field.shape[:2]
    inner = wide[: shape[0] * shape[1]].reshape(shape)
    inner[TOP : TOP + rows, LEFT : LEFT + columns] = field.detach().numpy()
    return wide.reshape(-1)
