"""Points and lines on a grid at which a flood is measured over time."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from models.core.errors import SpecError
from models.terrain.dem import places
from models.terrain.dem.rasters import Elevation
from models.terrain.solver.engines import Flood
from models.terrain.solver.maxima import wet_part
from models.terrain.solver.subgrid import SubgridTerrain, depth_over_lowest
from models.terrain.spec.places import Gauge

POINT = ("stage_m", "depth_m", "speed_m_s", "discharge_m2_s")
LINE = ("discharge_m3_s",)
FILM_M = 1e-3  # depth without a speed


class Face(NamedTuple):
    """The right (0) or lower (1) face of a cell, and the sign with which its discharge counts."""

    row: int
    column: int
    side: int
    sign: float


class PointWater(NamedTuple):
    """At a point: mean depth of the cell and depth over ``bed_m``, m; speed if it is known."""

    depth: float
    over_bed: float
    speed: float | None


class Station(NamedTuple):
    """A gauge on the cells of a grid.

    Attributes:
        name: of the gauge.
        cell: row and column of a point; None: a line.
        faces: that a line follows; of a point its right, left, lower and upper one.
        bed_m: height of the point's ground; with a subgrid the lowest fine one.
    """

    name: str
    cell: tuple[int, int] | None
    faces: tuple[Face, ...]
    bed_m: float = 0.0

    @property
    def columns(self) -> list[str]:
        """Names of its readings in a table."""
        return [f"{self.name} {what}" for what in (LINE if self.cell is None else POINT)]


def stations(gauges: list[Gauge], ground: Elevation) -> list[Station]:
    """The gauges of a spec on the cells of a terrain.

    Raises:
        SpecError: naming a gauge that is off the terrain, on a cell without height, or shorter than
            a cell.
    """
    return [_station(gauge, ground, f"gauges.{index}") for index, gauge in enumerate(gauges)]


def _station(gauge: Gauge, ground: Elevation, field: str) -> Station:
    if gauge.geometry is not None:
        positions, crs = gauge.geometry.positions, gauge.geometry.crs
        points = places.from_corner(ground, positions, crs, f"{field}.geometry")
    else:
        points = np.array(gauge.line_m or [[gauge.x_m, gauge.y_m]], np.float64)
    points = places.inside(ground, points, field) / ground.dx
    if len(points) == 1:
        return _point(gauge, points[0], ground, field)
    return _line(gauge, points, field)


def _point(gauge: Gauge, point: np.ndarray, ground: Elevation, field: str) -> Station:
    ny, nx = ground.z.shape
    row, column = min(int(point[1]), ny - 1), min(int(point[0]), nx - 1)
    if ground.missing[row, column]:
        raise SpecError(f"{field}: the terrain has no height at row {row}, column {column}")
    around = (Face(row, column, 0, 1), Face(row, column - 1, 0, 1), Face(row, column, 1, 1),
              Face(row - 1, column, 1, 1))  # fmt: skip
    bed = ground.z if ground.subgrid is None else ground.subgrid.lowest[0].numpy()
    return Station(gauge.name, (row, column), around, float(bed[row, column]))


def _line(gauge: Gauge, points: np.ndarray, field: str) -> Station:
    """The faces of a staircase along the sides of cells that follows a line.

    A stair down has its left in the east, where y points down; a stair to the right in the north.
    """
    faces: list[Face] = []
    for a, b in pairwise(np.rint(points).astype(int).tolist()):
        for (x, y), (dx, dy) in _stairs(a, b):
            if dx:
                faces.append(Face(y - 1, min(x, x + dx), 1, float(dx)))
            else:
                faces.append(Face(min(y, y + dy), x - 1, 0, float(-dy)))
    if not faces:
        raise SpecError(f"{field}: the line is shorter than a cell; give a point or a longer line")
    return Station(gauge.name, None, tuple(faces))


def _stairs(a: list[int], b: list[int]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Corners and unit steps from one corner of cells to another, close to the straight line."""
    (x, y), length = a, (b[0] - a[0], b[1] - a[1])
    step = tuple(int(np.sign(d)) for d in length)
    while (x, y) != (b[0], b[1]):
        along = abs((x + step[0] - a[0]) * length[1] - (y - a[1]) * length[0])
        across = abs((x - a[0]) * length[1] - (y + step[1] - a[1]) * length[0])
        horizontal = y == b[1] or (x != b[0] and along <= across)
        move = (step[0], 0) if horizontal else (0, step[1])
        yield (x, y), move
        x, y = x + move[0], y + move[1]


class Readings:
    """Readings of all gauges over time.

    Args:
        placed: the gauges.
        dx: side of a cell, m.
        subgrid: of the flood; a depth is then the mean of a cell, and a speed that of its wet part.
    """

    def __init__(
        self, placed: list[Station], dx: float, subgrid: SubgridTerrain | None = None
    ) -> None:
        self.stations, self._dx, self._subgrid = placed, dx, subgrid
        self.times: list[float] = []
        self.rows: list[list[float]] = []
        self._faces = [face for station in placed for face in station.faces]
        cells = [station.cell for station in placed if station.cell is not None]
        where = [(face.row, face.column) for face in self._faces] + cells
        self._rows, self._columns = ([max(pair[k], 0) for pair in where] for k in (0, 1))

    @property
    def columns(self) -> list[str]:
        """Names of the readings, after the time."""
        return [name for station in self.stations for name in station.columns]

    def take(self, flood: Flood, t: float) -> None:
        """Read all gauges at time ``t`` in s."""
        h, *sides = (x.double().numpy() for x in flood.flow_at(self._rows, self._columns))
        q = [
            face.sign * sides[face.side][k] if min(face.row, face.column) >= 0 else 0.0
            for k, face in enumerate(self._faces)
        ]
        waters = iter(self._waters(flood, h[len(q) :]))
        row, at = [], 0
        for station in self.stations:
            mine = q[at : at + len(station.faces)]
            at += len(mine)
            line = station.cell is None
            row += [sum(mine) * self._dx] if line else _read(station, mine, next(waters))
        self.times.append(t)
        self.rows.append([float(value) for value in row])

    def _waters(self, flood: Flood, depths: np.ndarray) -> list[PointWater]:
        """The water at the points, whose cells are the last of those that are looked at."""
        if self._subgrid is None:
            return [PointWater(depth, depth, None) for depth in depths]
        state, first = flood.state, len(self._faces)
        cells = (0, self._rows[first:], self._columns[first:])
        stage = depth_over_lowest(state.h, self._subgrid.tables)[cells]
        speed = wet_part(state, self._subgrid, FILM_M).speed[cells]
        return [
            PointWater(*each) for each in zip(depths, stage.tolist(), speed.tolist(), strict=True)
        ]


def _read(station: Station, q: list[float], water: PointWater) -> list[float]:
    """Stage, depth, speed and discharge per metre of a point; the speed of dry ground is 0."""
    flow, depth = float(np.hypot(q[0] + q[1], q[2] + q[3])) / 2, water.depth
    speed = 0.0
    if depth > FILM_M:
        speed = flow / depth if water.speed is None else water.speed
    return [station.bed_m + water.over_bed, depth, speed, flow]
