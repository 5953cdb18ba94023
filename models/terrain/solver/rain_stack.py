"""Rain in time and space on a grid: pieces of time, in each of which one or two fields count."""

from bisect import bisect_right
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.data.field_units import depth_of
from models.data.fields import Fields, open_fields
from models.terrain.dem.elevations import Elevation
from models.terrain.dem.overlay import EvenGrid, overlay_of
from models.terrain.solver.forcing import RainField, RainPiece, Series
from models.terrain.spec.stacks import RainStack
from models.terrain.spec.water import Rain, Water

MOST_MM_H, LEAST_MM_H = 1e4, -1e-6  # interpolated rain may be below 0 by rounding
M_PER_S = 1 / 3.6e6  # of a millimetre an hour
Pooling = Callable[[Float[np.ndarray, "ny nx"]], Float[Tensor, "_ny _nx"]]


class FineRain:
    """The rain of a stack on the cells of a fine terrain, read frame by frame.

    Args:
        ref: names the dataset and its variable.
        fine: the terrain.
        run: gives access to the file; takes the warnings.
        field: of the spec, for messages.
        share: what the rain is multiplied with [ny, nx]; None: 1.

    Raises:
        SpecError: if the stack does not cover the terrain, is no rate of rain, or has cells over
            the terrain without a value or out of range.
        DataError: if the file cannot be used.
    """

    def __init__(
        self,
        ref: RainStack,
        fine: Elevation,
        run: Run,
        field: str,
        share: Float[np.ndarray, "ny nx"] | None,
    ) -> None:
        held = ExitStack()
        try:
            fields = held.enter_context(open_fields(run.input(ref), ref.variable))
        except DataError as error:
            raise DataError(f"{field}: {error}", hint=error.hint) from error
        self._held, self._fields, self._share = held, fields, share  # the file closes with this
        self.linear = ref.between == "linear"
        self.spans = _spans(fields, linear=self.linear, field=field)
        self._rates = _rates(fields, field)
        grid = EvenGrid(fields.x, fields.y, fields.crs)
        self._overlay = overlay_of(fine, grid, field)
        self._check(fine, field)
        width, height = grid.side
        run.warn("rain_laid", f"{field}: cells of {width:g} x {height:g} {self._overlay.words}")

    def frame(self, k: int) -> Float[np.ndarray, "ny nx"]:
        """Rate of a frame on the fine cells, m/s, float32."""
        values = np.maximum(self._part(k), 0) * self._rates[k]
        rate = self._overlay.on_terrain(np.nan_to_num(values))
        return (rate if self._share is None else rate * self._share).astype(np.float32)

    def _part(self, k: int) -> np.ndarray:
        return self._fields.frame(k, self._overlay.rows, self._overlay.columns)

    def _check(self, fine: Elevation, field: str) -> None:
        """Read all frames once, so that nothing is found wrong in the middle of a flood."""
        used = self._overlay.used(~fine.missing)
        for k, t in enumerate(self._fields.times_s):
            values = self._part(k)[used] * (self._rates[k] / M_PER_S)
            if gaps := int(np.isnan(values).sum()):
                raise SpecError(
                    f"{field}: {gaps} of its cells over the terrain have no value at {t:g} s; fill"
                    " them, or cut the terrain by area"
                )
            low, high = float(values.min()), float(values.max())
            if not LEAST_MM_H <= low <= high <= MOST_MM_H:
                raise SpecError(
                    f"{field}: rates from {low:g} to {high:g} mm/h at {t:g} s; 0 to"
                    f" {MOST_MM_H:g} are allowed"
                )


def rain_stack(
    water: list[Water], fine: Elevation, run: Run, share: Float[np.ndarray, "ny nx"] | None
) -> FineRain | None:
    """The stack that an item of water names; None where none does.

    Args:
        water: items of a spec, with no more than one rain.
        fine: the terrain.
        run: gives access to the file; takes the warnings.
        share: what the rain is multiplied with [ny, nx]; None: 1.

    Raises:
        SpecError, DataError: as of :class:`FineRain`.
    """
    for index, item in enumerate(water):
        if isinstance(item, Rain) and item.stack is not None:
            return FineRain(item.stack, fine, run, f"water.{index}.stack", share)
    return None


def _spans(fields: Fields, *, linear: bool, field: str) -> list[tuple[float, float]]:
    """Begin and end of the time in which each frame counts; linear: to the next frame's time."""
    times = fields.times_s.tolist()
    if linear and (fields.bounds_s is not None or len(times) < 2):
        why = "has one time" if len(times) < 2 else "tells by bounds which time each field is of"
        raise SpecError(f"{field}.between: linear, but {fields.name} {why}; use step")
    if fields.bounds_s is not None:
        return [(a, b) for a, b in fields.bounds_s.tolist()]
    last = 2 * times[-1] - times[-2] if len(times) > 1 else np.inf
    ends = times if linear else [*times, last]
    return list(pairwise(ends))


def _rates(fields: Fields, field: str) -> list[float]:
    """m/s that one of the file's unit is, of each frame."""
    given, count = depth_of(fields.unit), len(fields.times_s)
    if given is None:
        raise SpecError(
            f"{field}: {fields.name} is in {fields.unit!r}; give a rate of rain, such as mm h-1, mm"
            " s-1, m s-1 or kg m-2 s-1"
        )
    factor, is_rate = given
    if is_rate:
        return [factor] * count
    if not fields.summed or fields.bounds_s is None:
        raise SpecError(
            f"{field}: {fields.name} is in {fields.unit!r}, an amount whose time is not told; give"
            " a rate (divided by that time, mm h-1), or time bounds and cell_methods 'time: sum'"
        )
    return (factor / np.diff(fields.bounds_s, axis=1)[:, 0]).tolist()


class GridRain:
    """The rain of a stack on one grid, of which at most two fields are in memory.

    Args:
        fine: on the fine cells.
        pooled: brings a field from there to the grid.
    """

    def __init__(self, fine: FineRain, pooled: Pooling) -> None:
        self._fine, self._pooled = fine, pooled
        self._begins = [begin for begin, _ in fine.spans]
        self._kept: dict[int, Tensor] = {}
        self._piece: tuple[float, RainPiece] | None = None  # its begin, and itself
        self.count = 2 if fine.linear else 1

    def at(self, t: float) -> RainPiece:
        """The piece of time that holds ``t`` or begins there, s."""
        if self._piece is None or not self._piece[0] <= t < self._piece[1].until:
            self._piece = self._made(t)
        return self._piece[1]

    def _made(self, t: float) -> tuple[float, RainPiece]:
        k = bisect_right(self._begins, t) - 1
        if k >= 0 and t < self._fine.spans[k][1]:
            begin, end = self._fine.spans[k]
            wanted = (k, k + 1) if self._fine.linear else (k,)
            fields = {j: self._kept[j] if j in self._kept else self._field(j) for j in wanted}
            self._kept = fields
            weights = ((1.0, 0.0), (0.0, 1.0)) if self._fine.linear else ((1.0, 1.0),)
            last = end if np.isfinite(end) else begin + 1
            series = [Series((begin, last), values) for values in weights]
            pairs = zip(series, fields.values(), strict=True)
            return begin, RainPiece(end, tuple(RainField(*pair) for pair in pairs))
        end = self._begins[k + 1] if k + 1 < len(self._begins) else np.inf
        dry = torch.zeros_like(next(iter(self._kept.values()))) if self._kept else None
        dry = torch.zeros_like(self._field(0)) if dry is None else dry
        nothing = RainField(Series((t, t + 1), (0.0, 0.0)), dry)
        return t, RainPiece(end, (nothing,) * self.count)

    def _field(self, k: int) -> Tensor:
        return self._pooled(self._fine.frame(k)).float().contiguous()
