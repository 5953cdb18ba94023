"""Fields over time as NetCDF by the CF conventions, written moment by moment."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
from jaxtyping import Float

from models.data.elevation import length_unit
from models.terrain.dem.elevations import NODATA, Elevation

CHUNK = 512


class DepthStack:
    """The depth of a flood over time, in a file that is open.

    Args:
        file: empty, for writing.
        ground: gives grid, reference system and missing cells.
    """

    def __init__(self, file: h5netcdf.File, ground: Elevation) -> None:
        self._file, self._missing = file, ground.missing
        self._depth = _define(file, ground)

    def append(self, t: float, depth: Float[np.ndarray, "ny nx"]) -> None:
        """Write the depth in m at time ``t`` in s; missing cells become the fill value."""
        k = len(self._file.variables["time"])
        self._file.resize_dimension("time", k + 1)
        self._file.variables["time"][k] = t
        self._depth[k] = np.where(self._missing, np.float32(NODATA), depth)


@contextmanager
def depth_stack(path: Path, ground: Elevation) -> Generator[DepthStack]:
    """Open a new file of depths on the grid of ``ground``."""
    with h5netcdf.File(path, "w") as file:
        yield DepthStack(file, ground)


def _define(file: h5netcdf.File, ground: Elevation) -> Any:
    """Dimensions, coordinates and the empty variable ``depth``; returns it."""
    ny, nx = ground.z.shape
    file.dimensions = {"time": None, "y": ny, "x": nx}
    _variable(file, "time", ("time",), np.float64, units="s", long_name="time since the start")
    mapping = define_grid(file, ground)
    depth = file.create_variable(
        "depth", ("time", "y", "x"), np.float32, fillvalue=np.float32(NODATA),
        chunks=(1, min(CHUNK, ny), min(CHUNK, nx)), compression="gzip", compression_opts=1,
        shuffle=True,
    )  # fmt: skip
    names = {"standard_name": "flood_water_thickness", "long_name": "depth of water"}
    depth.attrs.update(names | {"units": "m"} | mapping)
    return depth


def define_grid(file: h5netcdf.File, ground: Elevation) -> dict[str, str]:
    """Coordinates and reference system of a file with dimensions ``y`` and ``x``.

    Args:
        file: open for writing.
        ground: gives grid and reference system.

    Returns:
        Attributes of every field on the grid.
    """
    file.attrs["Conventions"] = "CF-1.11"
    for name, values, attributes in _axes(ground):
        _variable(file, name, (name,), np.float64, **attributes)[:] = values
    return _grid_mapping(file, ground)


def _variable(
    file: h5netcdf.File, name: str, dimensions: tuple[str, ...], dtype: Any, **attributes: str
) -> Any:
    variable = file.create_variable(name, dimensions, dtype)
    variable.attrs.update(attributes)
    return variable


def _axes(ground: Elevation) -> list[tuple[str, np.ndarray, dict[str, str]]]:
    """Coordinates of the centres of the cells; cells from the corner where the grid is rotated."""
    ny, nx = ground.z.shape
    t = ground.transform
    x, y = t.c + t.a * (np.arange(nx) + 0.5), t.f + t.e * (np.arange(ny) + 0.5)
    if t.b or t.d:
        return [("x", np.arange(nx) + 0.5, {"long_name": "column", "units": "1"}),
                ("y", np.arange(ny) + 0.5, {"long_name": "row", "units": "1"})]  # fmt: skip
    if ground.crs is not None and ground.crs.is_geographic:
        return [("x", x, {"standard_name": "longitude", "units": "degrees_east"}),
                ("y", y, {"standard_name": "latitude", "units": "degrees_north"})]  # fmt: skip
    unit = length_unit(ground.crs)[0]
    return [("x", x, {"standard_name": "projection_x_coordinate", "units": unit}),
            ("y", y, {"standard_name": "projection_y_coordinate", "units": unit})]  # fmt: skip


def _grid_mapping(file: h5netcdf.File, ground: Elevation) -> dict[str, str]:
    """The variable ``crs``, whose WKT and transform GDAL, QGIS and rioxarray read."""
    if ground.crs is None:
        return {}
    t, wkt = ground.transform, ground.crs.to_wkt()
    attributes = {"crs_wkt": wkt, "spatial_ref": wkt}
    attributes["GeoTransform"] = " ".join(f"{k:.17g}" for k in t.to_gdal())
    if ground.crs.is_geographic:
        attributes["grid_mapping_name"] = "latitude_longitude"
    _variable(file, "crs", (), np.int32, **attributes)[...] = 0
    return {"grid_mapping": "crs"}
