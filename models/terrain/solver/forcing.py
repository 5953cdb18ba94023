"""Water that enters a grid: inflow and rain over time; levels that change."""

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from models.terrain.solver.scheme import Ground


class Series(NamedTuple):
    """A quantity over time, linear between its points, constant before and after them.

    Attributes:
        times: seconds from the start, increasing.
        values: at these times.
    """

    times: tuple[float, ...]
    values: tuple[float, ...]

    def __hash__(self) -> int:
        """Of a few of its numbers: a series of 100,000 moments is looked up in every step."""
        return hash((len(self.times), self.times[-1], self.values[0], self.values[-1]))

    def at(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Values at times t in s; float64."""
        x, y, _ = _points(self, t.device)
        k = self._last(t)
        if len(self.times) == 1:
            return y.expand_as(t)
        k = k.clamp(max=len(self.times) - 2)
        share = ((t - x[k]) / (x[k + 1] - x[k])).clamp(0, 1)
        return y[k] + share * (y[k + 1] - y[k])

    def mean(self, t: Float[Tensor, "b"], dt: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Means from times t to t + dt in s, exact; the value where dt is 0; float64."""
        t, dt = t.double(), dt.double()
        # within a span the series is linear: its mean is the value in the middle
        same = (self._last(t) == self._last(t + dt)) & (t >= self.times[0])
        whole = self._integral(t + dt) - self._integral(t)
        return torch.where(
            same | (dt == 0), self.at(t + dt / 2), whole / torch.where(dt > 0, dt, 1)
        )

    def _last(self, t: Tensor) -> Tensor:
        """Index of the last moment at or before t; 0 before the first."""
        x = _points(self, t.device)[0]
        return (torch.searchsorted(x, t.double().contiguous(), right=True) - 1).clamp(min=0)

    def _integral(self, t: Tensor) -> Tensor:
        """From the first moment to t."""
        x, y, integrals = _points(self, t.device)
        k = self._last(t)
        return integrals[k] + (t - x[k]) * (y[k] + self.at(t)) / 2


@lru_cache(maxsize=64)
def _points(series: Series, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Times, values and integrals of a series; kept, as every step asks for them several times."""
    columns = (series.times, series.values, integrals_of(series))
    x, y, total = (torch.tensor(c, dtype=torch.float64, device=device) for c in columns)
    return x, y, total


def integrals_of(series: Series) -> list[float]:
    """The integral of a series from its first moment to each."""
    pairs = pairwise(zip(series.times, series.values, strict=True))
    return list(accumulate(((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs), initial=0.0))


def constant(value: float) -> Series:
    """A series with the same value at all times."""
    return Series((0.0,), (value,))


class Inlet(NamedTuple):
    """Water entering a few cells.

    Attributes:
        series: discharge in m3/s.
        rows: of the cells.
        columns: of the cells; the discharge is divided equally among them.
    """

    series: Series
    rows: tuple[int, ...]
    columns: tuple[int, ...]


class HeldLevel(NamedTuple):
    """A water level that changes with time, held in a few cells.

    Attributes:
        series: m above the datum of the bed.
        rows: of the cells.
        columns: of the cells.
    """

    series: Series
    rows: tuple[int, ...]
    columns: tuple[int, ...]


class RainField(NamedTuple):
    """Rain on each cell, as much of it as a weight over time says.

    Attributes:
        weight: of two moments.
        rate: m/s [ny, nx].
    """

    weight: Series
    rate: Tensor


class RainPiece(NamedTuple):
    """The rain of a stretch of time: its end in s, and the fields that fall until then."""

    until: float
    fields: tuple[RainField, ...]

    @property
    def most(self) -> float:
        """Greatest rate of its fields, m/s."""
        return max(float(field.rate.max()) for field in self.fields)


@runtime_checkable
class ChangingRain(Protocol):
    """Rain in time and space, ``count`` fields at a time."""

    count: int

    def at(self, t: float) -> RainPiece:
        """The piece of time that holds ``t`` or begins there, s."""
        ...


class Forcing(NamedTuple):
    """All water that enters, the same for every sample of a batch.

    Attributes:
        inlets: inflow through edges and point sources.
        rain: m/s over time.
        rain_map: share of ``rain`` that falls on each cell [ny, nx]; None: 1 everywhere.
        levels: held levels that change; ``Ground.level`` has all cells and those that do not.
        stack: rain in time and space, which engines take piece by piece.
        piece: what falls of it during the steps to come; no step goes beyond its end.
    """

    inlets: tuple[Inlet, ...] = ()
    rain: Series | None = None
    rain_map: Tensor | None = None
    levels: tuple[HeldLevel, ...] = ()
    stack: ChangingRain | None = None
    piece: RainPiece | None = None

    def ground_at(self, ground: Ground, t: Float[Tensor, "b"]) -> Ground:
        """The ground with the held levels of times t in s."""
        if not self.levels or ground.level is None:
            return ground
        level = ground.level.expand(len(t), -1, -1).clone()
        for held in self.levels:
            level[:, list(held.rows), list(held.columns)] = held.series.at(t).to(level)[:, None]
        return ground._replace(level=level)

    def rate(
        self,
        shape: tuple[int, int],
        dx: float,
        t: Float[Tensor, "b"],
        dt: Float[Tensor, "b"],
        dtype: torch.dtype,
    ) -> Tensor | float:
        """Mean source term in m/s [b, ny, nx], or 0.0 if there is neither inflow nor rain.

        Args:
            shape: rows and columns of the grid.
            dx: side of a cell, m.
            t: times of the samples, s.
            dt: s from there over which the mean is taken; 0: the value at t.
            dtype: of the result.
        """
        if not self.inlets and self.rain is None and self.piece is None:
            return 0.0
        rise = torch.zeros(len(t), *shape, dtype=dtype, device=t.device)
        if self.rain is not None:
            amount = self.rain.mean(t, dt).to(dtype)[:, None, None]
            rise += amount if self.rain_map is None else amount * self.rain_map.to(rise)
        for weight, rate in self.piece.fields if self.piece is not None else ():
            rise += weight.mean(t, dt).to(dtype)[:, None, None] * rate.to(rise)
        for inlet in self.inlets:
            each = inlet.series.mean(t, dt) / (len(inlet.rows) * dx * dx)
            for row, column in zip(inlet.rows, inlet.columns, strict=True):
                rise[:, row, column] += each.to(dtype)
        return rise
