"""From the coordinates of a terrain to metres from its left and its upper edge."""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from rasterio import Affine
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from models.core.errors import SpecError
from models.terrain.dem.rasters import Elevation

SLACK = 1e-6  # cells by which rounding may put a point outside


def from_corner(
    ground: Elevation, positions: Sequence[Sequence[float]], crs: str | None, field: str
) -> Float[np.ndarray, "points 2"]:
    """Distances x, y in m of points from the left and the upper edge of a terrain.

    Args:
        ground: the terrain.
        positions: x and y, or longitude and latitude, of each point.
        crs: reference system of the positions; None: the terrain's.
        field: of the spec, for messages.

    Raises:
        SpecError: if the terrain has no coordinates, or the reference system is not known.
    """
    if not ground.georeferenced:
        raise SpecError(
            f"{field}: {ground.name} has no coordinates; give metres from its left and upper edge"
        )
    x, y = (np.array([position[k] for position in positions], np.float64) for k in (0, 1))
    if crs is not None:
        x, y = _reprojected(ground, x, y, crs, field)
    inverse: Affine = ~ground.transform
    column = inverse.a * x + inverse.b * y + inverse.c
    row = inverse.d * x + inverse.e * y + inverse.f
    return np.stack([column, row], 1) * ground.dx


def inside(
    ground: Elevation, points: Float[np.ndarray, "points 2"], field: str
) -> Float[np.ndarray, "points 2"]:
    """Points in m from the left and the upper edge, all of which must be on the terrain.

    Raises:
        SpecError: naming the first that is not, and the bounds.
    """
    ny, nx = ground.z.shape
    most = np.array([nx, ny]) * ground.dx
    slack = SLACK * ground.dx
    off = ((points < -slack) | (points > most + slack)).any(1) | ~np.isfinite(points).all(1)
    if off.any():
        x, y = points[int(off.argmax())] / ground.dx
        raise SpecError(f"{field}: {_at(ground, x, y)} is off the terrain, {bounds_of(ground)}")
    return np.clip(points, 0, most)


def bounds_of(ground: Elevation) -> str:
    """The bounds of a terrain in words."""
    ny, nx = ground.z.shape
    if not ground.georeferenced:
        return f"which is {nx * ground.dx:g} x {ny * ground.dx:g} m"
    corners = [ground.transform @ corner for corner in ((0, 0), (nx, 0), (0, ny), (nx, ny))]
    (left, right), (bottom, top) = ((min(c), max(c)) for c in zip(*corners, strict=True))
    name = "" if ground.crs is None else f" in {ground.crs.to_string()[:40]}"
    return f"which reaches from x {left:.9g} to {right:.9g}, y {bottom:.9g} to {top:.9g}{name}"


def _at(ground: Elevation, column: float, row: float) -> str:
    if not ground.georeferenced:
        return f"({column * ground.dx:g}, {row * ground.dx:g}) m"
    x, y = ground.transform @ (column, row)
    return f"({x:.9g}, {y:.9g})"


def _reprojected(
    ground: Elevation, x: np.ndarray, y: np.ndarray, crs: str, field: str
) -> tuple[np.ndarray, np.ndarray]:
    if ground.crs is None:
        raise SpecError(f"{field}: {ground.name} names no reference system; leave crs out")
    try:
        with warnings.catch_warnings(action="ignore"):
            moved = transform(crs, ground.crs, x.tolist(), y.tolist())
    except (CRSError, RasterioError) as error:
        raise SpecError(f"{field}: {crs} cannot be brought to the terrain's: {error}") from error
    return np.array(moved[0]), np.array(moved[1])
