"""Subgrid terrain as NetCDF by the CF conventions; the layout is in the README."""

from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import torch
from rasterio import CRS, Affine
from torch import Tensor

from models.core.errors import DataError
from models.terrain.dem.elevations import NODATA, Elevation
from models.terrain.dem.netcdf import define_grid
from models.terrain.solver.subgrid import FaceTables, Subgrid, SubgridTerrain

VERSION = 1
CELLS = ("y", "x")
FACES = {"x": ("y", "x_face"), "y": ("y_face", "x")}
TABLE = ("depth", "friction")  # fields of faces with one value an entry
UNITS = {"sill": "m", "span": "m", "mean": "m", "depth": "m", "friction": "1", "far": "1"}


def write(path: Path, coarse: Elevation) -> None:
    """Write a terrain with its subgrid.

    Args:
        path: of the new file.
        coarse: its mean heights, grid and reference system; with subgrid.
    """
    terrain = coarse.subgrid
    assert terrain is not None  # noqa: S101  # guaranteed by the callers
    ny, nx = coarse.z.shape
    with h5netcdf.File(path, "w") as file:
        entries = terrain.tables.storage.shape[-1]
        file.dimensions = {"y": ny, "x": nx, "y_face": ny - 1, "x_face": nx - 1, "entry": entries}
        mapping = define_grid(file, coarse)
        file.attrs.update({"subgrid_version": VERSION, "factor": terrain.factor})
        file.attrs.update({"cell_size_m": coarse.dx})
        file.attrs["transform"] = np.array(coarse.transform.to_gdal())
        height = np.where(coarse.missing, np.float32(NODATA), coarse.z)
        put = _Writer(file, mapping)
        put("height", CELLS, height, "m", "mean height of the ground")
        put("lowest", CELLS, terrain.lowest[0], "m", "lowest fine height")
        put("full", CELLS, terrain.tables.full[0], "m", "mean depth of a cell just under water")
        long_name = "depth over the lowest fine height at mean depth full (entry / last entry)^2"
        put("storage", (*CELLS, "entry"), terrain.tables.storage[0], "m", long_name)
        for side, faces in (("x", terrain.tables.x), ("y", terrain.tables.y)):
            for name, values in faces._asdict().items():
                axes = (*FACES[side], *(("entry",) if name in TABLE else ()))
                put(f"{side}_{name}", axes, values[0], UNITS[name], f"{name} of the {side} faces")


class _Writer:
    """Writes float32 variables of an open file."""

    def __init__(self, file: h5netcdf.File, mapping: dict[str, str]) -> None:
        self._file, self._mapping = file, mapping

    def __call__(
        self, name: str, axes: tuple[str, ...], values: Any, unit: str, long_name: str
    ) -> None:
        variable = self._file.create_variable(
            name, axes, np.float32, fillvalue=np.float32(NODATA), compression="gzip",
            compression_opts=1, shuffle=True,
        )  # fmt: skip
        variable.attrs.update({"units": unit, "long_name": long_name})
        if axes == CELLS:
            variable.attrs.update(self._mapping)
        variable[...] = np.asarray(values, np.float32)


def read(path: Path, name: str) -> Elevation:
    """A terrain with its subgrid.

    Args:
        path: of a file of :func:`write`.
        name: for messages.

    Raises:
        DataError: if it is damaged, not such a file, or of another version.
    """
    try:
        with h5netcdf.File(path, "r") as file:
            if int(file.attrs.get("subgrid_version", 0)) != VERSION:
                raise DataError(
                    f"{name} is no subgrid terrain of version {VERSION}; write it again by"
                    " terrain.downsample with method subgrid"
                )
            return _terrain(file, name)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{name} cannot be read as a subgrid terrain: {error}") from error


def _terrain(file: h5netcdf.File, name: str) -> Elevation:
    height = np.asarray(file.variables["height"][...])
    missing = height == np.float32(NODATA)
    tables = Subgrid(_tensor(file, "full"), _tensor(file, "storage"), *_faces(file))
    if not all(bool(field.isfinite().all()) for field in (*tables[:2], *tables.x, *tables.y)):
        raise DataError(f"{name}: a table has a value that is not finite")
    subgrid = SubgridTerrain(_tensor(file, "lowest"), tables, int(file.attrs["factor"]))
    crs = file.variables["crs"].attrs["crs_wkt"] if "crs" in file.variables else None
    transform = Affine.from_gdal(*(float(k) for k in file.attrs["transform"]))
    z = np.where(missing, subgrid.lowest[0].numpy(), height)
    return Elevation(
        z, missing, float(file.attrs["cell_size_m"]), crs and CRS.from_wkt(crs), transform, name,
        georeferenced=crs is not None, subgrid=subgrid,
    )  # fmt: skip


def _faces(file: h5netcdf.File) -> list[FaceTables]:
    return [
        FaceTables(*(_tensor(file, f"{side}_{name}") for name in FaceTables._fields))
        for side in FACES
    ]


def _tensor(file: h5netcdf.File, name: str) -> Tensor:
    return torch.from_numpy(np.asarray(file.variables[name][...], np.float32))[None]
