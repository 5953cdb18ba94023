"""What was seen of a flood, on its terrain; how far a flood is from it."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.data import marks
from models.terrain import measures
from models.terrain.dem import places, rasters
from models.terrain.dem.rasters import Elevation
from models.terrain.spec.observed import Observed

LON_LAT = "EPSG:4326"


class Seen(NamedTuple):
    """Observations on the cells of the fine terrain.

    Attributes:
        wet: cells that were seen wet [ny, nx]; None: not known.
        rows: of the cells with a surveyed level.
        columns: of these cells.
        level_m: of these cells, m.
        wet_m: modelled depth that counts as wet, m.
    """

    wet: Bool[np.ndarray, "ny nx"] | None
    rows: np.ndarray
    columns: np.ndarray
    level_m: Float[np.ndarray, "marks"]
    wet_m: float


def seen_on(observed: Observed | None, ground: Elevation, run: Run) -> Seen | None:
    """The observations of a spec on its terrain; marks off it are left out, with a warning.

    Raises:
        SpecError: if the extent has other cells, or no mark is on the terrain.
        DataError: if a file cannot be used.
    """
    if observed is None:
        return None
    wet, none = None, np.zeros(0, int)
    if observed.extent is not None:
        values = rasters.map_on(ground, observed.extent, run, "observed.extent", -np.inf, np.inf)
        wet = (values != 0) & ~ground.missing
    if observed.marks is None:
        return Seen(wet, none, none, np.zeros(0), observed.wet_depth_m)
    try:
        table = marks.read(run.input(observed.marks))
    except DataError as error:
        raise DataError(f"observed.marks: {error}", hint=error.hint) from error
    rows, columns, there = _cells(table, ground)
    if not there.any():
        raise SpecError(f"observed.marks: none is on the terrain, {places.bounds_of(ground)}")
    if not there.all():
        run.warn("marks_left_out", f"{int((~there).sum())} surveyed levels are off the terrain")
    return Seen(wet, rows[there], columns[there], table.level_m[there], observed.wet_depth_m)


def _cells(
    table: marks.Marks, ground: Elevation
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "marks"]]:
    """Rows and columns of marks, and which of them are on known ground."""
    crs = LON_LAT if table.in_degrees and not _geographic(ground) else None
    pairs = np.stack([table.x, table.y], 1).tolist()
    at = places.from_corner(ground, pairs, crs, "observed.marks") / ground.dx
    ny, nx = ground.z.shape
    columns, rows = np.floor(at).astype(int).T
    there = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    there[there] &= ~ground.missing[rows[there], columns[there]]
    return rows, columns, there


def _geographic(ground: Elevation) -> bool:
    return ground.crs is not None and bool(ground.crs.is_geographic)


def scores(
    seen: Seen,
    z: Float[np.ndarray, "nyc nxc"],
    peak: Float[np.ndarray, "nyc nxc"],
    factor: int = 1,
) -> dict[str, float]:
    """How far the greatest depths of a flood are from what was seen.

    Args:
        seen: on the fine terrain.
        z: bed of the flood, m.
        peak: greatest depth, m.
        factor: fine cells a cell of the flood, per side.

    Returns:
        ``observed_csi``, ``observed_hit_rate``, ``observed_false_alarms`` (of the modelled wet
        area) where an extent is known; ``marks``, ``marks_wet``, ``marks_bias_m``,
        ``marks_rmse_m``, ``marks_mae_m`` of the marks in wet cells where there are marks.
    """
    figures: dict[str, float] = {}
    if seen.wet is not None:
        ny, nx = seen.wet.shape
        wet = (peak > seen.wet_m).repeat(factor, 0).repeat(factor, 1)[:ny, :nx]
        hits, either = int((wet & seen.wet).sum()), int((wet | seen.wet).sum())
        figures["observed_csi"] = hits / either if either else 1.0
        figures["observed_hit_rate"] = hits / max(int(seen.wet.sum()), 1)
        figures["observed_false_alarms"] = 1 - hits / max(int(wet.sum()), 1)
    if len(seen.level_m):
        gaps = modelled_levels(seen, z, peak, factor) - seen.level_m
        known = gaps[np.isfinite(gaps)]
        figures |= {"marks": len(gaps), "marks_wet": len(known)}
        figures |= {f"marks_{k}": v for k, v in measures.level_errors(known).items()}
    return figures


def modelled_levels(
    seen: Seen,
    z: Float[np.ndarray, "nyc nxc"],
    peak: Float[np.ndarray, "nyc nxc"],
    factor: int = 1,
) -> Float[np.ndarray, "marks"]:
    """The greatest level at each mark in m, NaN where its cell stayed dry."""
    i, j = seen.rows // factor, seen.columns // factor
    depth = peak[i, j]
    return np.where(depth > seen.wet_m, z[i, j].astype(np.float64) + depth, np.nan)


def write_marks(path: Path, seen: Seen, z: np.ndarray, peak: np.ndarray) -> None:
    """A table of the marks: row, column, surveyed and modelled level, their difference."""
    levels = modelled_levels(seen, z, peak)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["row", "column", "surveyed_m", "modelled_m", "error_m"])
        for row in zip(seen.rows, seen.columns, seen.level_m, levels, strict=True):
            gap = row[3] - row[2]
            shown = ["", ""] if np.isnan(gap) else [f"{row[3]:.4f}", f"{gap:.4f}"]
            table.writerow([int(row[0]), int(row[1]), f"{row[2]:.4f}", *shown])
