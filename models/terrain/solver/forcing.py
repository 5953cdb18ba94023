"""Water that enters a grid: inflow and rain over time."""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Series(NamedTuple):
    """A quantity over time, linear between its points, constant before and after them.

    Attributes:
        times: seconds from the start, increasing.
        values: at these times.
    """

    times: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Values at times t in s; float64."""
        x, y = _points(self, t.device)
        if len(self.times) == 1:
            return y.expand_as(t)
        after = torch.searchsorted(x, t.double().contiguous()).clamp(1, len(self.times) - 1)
        share = ((t - x[after - 1]) / (x[after] - x[after - 1])).clamp(0, 1)
        return y[after - 1] + share * (y[after] - y[after - 1])


@lru_cache(maxsize=64)
def _points(series: Series, device: torch.device) -> tuple[Tensor, Tensor]:
    """Times and values of a series, float64; kept, as every step asks for them several times."""
    x, y = (torch.tensor(column, dtype=torch.float64, device=device) for column in series)
    return x, y


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


class Forcing(NamedTuple):
    """All water that enters, the same for every sample of a batch.

    Attributes:
        inlets: inflow through edges and point sources.
        rain: m/s over time.
        rain_map: share of ``rain`` that falls on each cell [ny, nx]; None: 1 everywhere.
    """

    inlets: tuple[Inlet, ...] = ()
    rain: Series | None = None
    rain_map: Tensor | None = None

    def rate(
        self, shape: tuple[int, int], dx: float, t: Float[Tensor, "b"], dtype: torch.dtype
    ) -> Tensor | float:
        """Source term in m/s [b, ny, nx], or 0.0 if there is neither inflow nor rain.

        Args:
            shape: rows and columns of the grid.
            dx: side of a cell, m.
            t: times of the samples, s.
            dtype: of the result.
        """
        if not self.inlets and self.rain is None:
            return 0.0
        rise = torch.zeros(len(t), *shape, dtype=dtype, device=t.device)
        if self.rain is not None:
            amount = self.rain.at(t).to(dtype)[:, None, None]
            rise += amount if self.rain_map is None else amount * self.rain_map.to(rise)
        for inlet in self.inlets:
            each = inlet.series.at(t) / (len(inlet.rows) * dx * dx)
            for row, column in zip(inlet.rows, inlet.columns, strict=True):
                rise[:, row, column] += each.to(dtype)
        return rise
